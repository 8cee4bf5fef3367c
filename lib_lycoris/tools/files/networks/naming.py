"""Targets of a base model -> module names of a file, in the style of the program that is to read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ....algorithms.base import flat
from ....errors import ToolError
from ....models import BaseModel, rows, split_part, with_part
from ....models.families import UNET_PREFIX
from ....records import dataclass
from ...declaration import STYLES

DOTTED = ("diffusers", "peft", "original")  # factors are called as PEFT calls them
WHOLE = slice(0, None)


@dataclass(frozen=True)
class Named:
    """One module of a file and the rows of the canonical module that it changes, in its order."""

    name: str
    rows: tuple[slice, ...]


def known_style(style: str) -> str:
    """Return a key style as it is. Raises ToolError for one that is none."""
    if style not in STYLES:
        raise ToolError(f'"{style}" is no key style; the styles are {", ".join(STYLES)}')
    return style


def named(base: BaseModel, style: str, module: str) -> list[Named]:
    """Return the modules that stand for a canonical one: itself, or the parts that the style knows it by; empty where it has no name."""
    whole = name_of(base, known_style(style), module)
    if whole is not None:
        return [Named(whole, (WHOLE,))]
    found = []
    for alias in base.aliases(module):
        name = None if alias.part == "T" else name_of(base, style, with_part(module, alias.part))
        if name is not None:
            found.append(Named(name, rows(alias.part, base.layers[module].shape)))
    return found


def name_of(base: BaseModel, style: str, target: str) -> str | None:
    """Return what a layer is called in a style of key names; None where no name says it."""
    if style in ("diffusers", "original"):
        return base.name_in(style, target)
    kohya = base.name_in("kohya", target)
    if style == "kohya" or (style == "lycoris" and not target.startswith(UNET_PREFIX)):
        return kohya  # LyCORIS names text encoders as kohya's trainer does, since it is that trainer that wraps them
    module, part = split_part(target)
    alias = next((a for a in base.aliases(module) if a.part == part), None)
    if alias is None:
        return None
    if style == "lycoris":
        return f"lycoris_{alias.path.replace('.', '_')}"
    # PEFT wraps one component and says nothing of which; two text encoders in one file would have the same names
    return f"base_model.model.{alias.path if module.startswith(UNET_PREFIX) else alias.name}"


def lora(style: str, up: Tensor, down: Tensor, kernel: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """Return suffix -> tensor of a LoRA whose scale is 1: up (out, r), down (r, in·k)."""
    rank = down.shape[0]
    up = up.reshape(*up.shape[:2], *(1,) * len(kernel))
    down = down.reshape(rank, -1, *kernel)
    if style in DOTTED:
        return {"lora_A.weight": down, "lora_B.weight": up}
    return {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(float(rank))}


def select(tensor: Tensor, which: Iterable[slice]) -> Tensor:
    """Return rows of a tensor in an order."""
    pieces = [tensor[piece] for piece in which]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def to_dtype(tensors: Mapping[str, Tensor], dtype: torch.dtype, whose: str) -> dict[str, Tensor]:
    """Return a LoRA's tensors in the dtype of the file, its alpha too; what alpha loses by that goes into up.

    whose: the file and the module that they come from, for the error.

    Raises ToolError when a number does not fit into the dtype.
    """
    found = dict(tensors)
    if "alpha" in found and "lora_up.weight" in found:
        alpha = float(found["alpha"])
        stored = float(found["alpha"].to(dtype))
        if stored not in (0.0, alpha):
            found["lora_up.weight"] = found["lora_up.weight"] * (alpha / stored)
    made = {key: value.to(dtype) if value.is_floating_point() else value for key, value in found.items()}  # places stay whole numbers
    broken = next((k for k, v in made.items() if v.numel() and not bool(torch.isfinite(v.float()).all())), None)
    if broken is not None:
        raise ToolError(f"{whose}: {broken} holds numbers that {dtype} cannot; use `save_precision=bf16` or fp32")
    return made


def merged_parts(parts: Mapping[str, tuple[Tensor, Tensor]], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return one pair of factors for a fused module from those of its parts; shape: of the fused weight."""
    rank = sum(up.shape[1] for up, _ in parts.values())
    first = next(iter(parts.values()))[0]
    up, done = first.new_zeros(shape[0], rank), 0
    for part, (left, _) in parts.items():
        taken, offset = rows(part or None, shape), 0
        for piece in taken:
            length = piece.stop - piece.start
            up[piece, done : done + left.shape[1]] = left[offset : offset + length]
            offset += length
        done += left.shape[1]
    return up, torch.cat([flat(down) for _, down in parts.values()])
