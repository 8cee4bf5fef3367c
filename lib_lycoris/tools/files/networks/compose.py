"""Changes of one canonical module, or of its parts -> modules of a file, under the names that a style has for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ....models import BaseModel, rows, with_part
from ...linalg.low_rank import Svd, qr_svd
from .naming import WHOLE, Named, lora, merged_parts, name_of, named, select

Modules = list[tuple[str, dict[str, Tensor]]]
Pair = tuple[Tensor, Tensor]
NORMS = ("LayerNorm", "GroupNorm")


def without_numbers(modules: Modules) -> Modules:
    """Return the names and shapes of modules alone, for what is asked of them once they are written."""
    return [(name, {suffix: tensor.to("meta") for suffix, tensor in tensors.items()}) for name, tensors in modules]


def names_of(base: BaseModel, style: str, module: str) -> list[Named]:
    """Return the modules of a file that stand for a canonical one; its own name, which our reader knows, where the style has none."""
    return named(base, style, module) or [Named(module, (WHOLE,))]


def is_direct(base: BaseModel, style: str, module: str, parts: Sequence[str]) -> bool:
    """Tell whether each part ("" for the whole) has a name of its own, so that parts stay apart."""
    return all(part and part != "T" and name_of(base, style, with_part(module, part)) for part in parts)


def join(base: BaseModel, style: str, module: str, parts: Mapping[str, Pair]) -> dict[str, Pair]:
    """Return the factors of each part that gets a module of its own, or of the whole ("") where that is not possible."""
    if set(parts) == {""} or is_direct(base, style, module, list(parts)):
        return dict(parts)
    turned = {part: (down.T, up.T) if part == "T" else (up, down) for part, (up, down) in parts.items()}
    return {"": merged_parts(turned, tuple(base.layers[module].shape))}


def lora_modules(base: BaseModel, style: str, module: str, part: str, up: Tensor, down: Tensor) -> Modules:
    """Return the file's modules for the factors of a part, or of the whole (""), which some styles know in parts only."""
    kernel = tuple(base.layers[module].shape[2:])
    if part:
        name = name_of(base, style, with_part(module, part))
        assert name is not None
        return [(name, lora(style, up.contiguous(), down.contiguous(), kernel))]
    items = names_of(base, style, module)
    if len(items) == 1 or not bool(up.any()):
        return [(item.name, lora(style, select(up, item.rows).contiguous(), down.contiguous(), kernel)) for item in items]
    made: Modules = []
    for item, its in zip(items, ranks_of(items, up)):
        if bool(its.any()):
            made.append((item.name, lora(style, select(up, item.rows)[:, its].contiguous(), down[its].contiguous(), kernel)))
    return made


def ranks_of(items: Sequence[Named], up: Tensor) -> list[Tensor]:
    """Return which ranks of a fused layer act on the rows of each name; the other parts' do not where the parts were apart before."""
    return [select(up, item.rows).flatten(1).any(0) for item in items]


def dense_modules(base: BaseModel, style: str, module: str, leaf: str, parts: Mapping[str, Tensor]) -> Modules:
    """Return the file's modules for whole differences of a parameter (leaf: weight or bias) or of its parts."""
    info = base.layers[module]
    whole = placed(parts, tuple(info.shape) if leaf == "weight" else tuple(info.shape[:1]), tuple(info.shape))
    norm = info.kind in NORMS
    suffix = ("w_norm" if norm else "diff") if leaf == "weight" else ("b_norm" if norm else "diff_b")
    return [(item.name, {suffix: select(whole, item.rows).contiguous()}) for item in names_of(base, style, module)]


def placed(parts: Mapping[str, Tensor], shape: tuple[int, ...], weight_shape: tuple[int, ...]) -> Tensor:
    """Return one tensor for a fused parameter from those of its parts ("" for the whole), zeros where there is none."""
    if set(parts) == {""}:
        return parts[""].reshape(shape)
    whole = torch.zeros(shape)
    for part, delta in parts.items():
        if part == "T":
            whole += delta.T
            continue
        offset = 0
        for piece in rows(part or None, weight_shape):
            length = piece.stop - piece.start
            whole[piece] += delta[offset : offset + length].reshape(whole[piece].shape)
            offset += length
    return whole


def concatenated(pairs: Sequence[Pair]) -> Pair:
    """Return the factors of a sum of products."""
    return torch.cat([up for up, _ in pairs], 1), torch.cat([down for _, down in pairs], 0)


def decomposed(up: Tensor, down: Tensor) -> Svd:
    """Return the singular values and vectors of a product."""
    return qr_svd(up, down)
