"""Canonical parameter names: `module` + leaf + optional `[part]` of a fused tensor.

Most modules hold `<module>.weight` and `<module>.bias`. Three kinds do not, and their names are known only here:
open_clip's fused attention (`<attn>.in_proj_weight`), Flux' query and key norms (`.scale`) and bare parameters, which
are their own module (`1.model.text_projection`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..records import dataclass

BARE = ("model.text_projection", "model.positional_embedding", "diffusion_model.pos_embed")
SCALED = (".norm.query_norm", ".norm.key_norm")
FUSED = ".attn"
PARTS = ("q", "k", "v", "mlp", "swap", "T", "qkv", "grouped_k", "grouped_v")  # and fractions of the rows: 0/2, 1/2

_FRACTION = re.compile(r"(\d{1,6})/([1-9]\d{0,5})")


@dataclass(frozen=True)
class LayerInfo:
    """Say what one module is: its kind, the shape of its weight (in_proj_weight of a MultiheadAttention), its bias."""

    kind: str  # Linear, Conv2d, LayerNorm, GroupNorm, Embedding, MultiheadAttention or Parameter
    shape: tuple[int, ...]
    bias: bool


def split_part(name: str) -> tuple[str, str | None]:
    """Split `name[part]` into name and part; the part is None when there is none."""
    if name.endswith("]"):
        head, _, part = name[:-1].rpartition("[")
        return head, part
    return name, None


def with_part(name: str, part: str | None) -> str:
    """Join a name and a part, the reverse of `split_part`."""
    return name if part is None else f"{name}[{part}]"


def parameter(target: str, leaf: str) -> str:
    """Name the parameter of a target (`module` or `module[part]`) that plays the role `leaf`, "weight" or "bias"."""
    module, part = split_part(target)
    if module.endswith(BARE):
        name = module
    elif module.endswith(FUSED):
        name = f"{module}.in_proj_{leaf}"
    elif module.endswith(SCALED) and leaf == "weight":
        name = f"{module}.scale"
    else:
        name = f"{module}.{leaf}"
    return with_part(name, part)


def split_parameter(name: str) -> tuple[str, str, str | None]:
    """Split a parameter name into module, role ("weight" or "bias") and part, the reverse of `parameter`."""
    whole, part = split_part(name)
    if whole.endswith(BARE):
        return whole, "weight", part
    module, _, leaf = whole.rpartition(".")
    if leaf.startswith("in_proj_"):
        leaf = leaf[len("in_proj_") :]
    elif leaf == "scale" and module.endswith(SCALED):
        leaf = "weight"
    return module, leaf, part


def count_layers(names: Iterable[str]) -> int:
    """Return how many layers parameters belong to: weight and bias of one are one layer, parts of one are several."""
    return len({(module, part) for module, _, part in map(split_parameter, names)})


def rows(part: str | None, weight_shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Give the row ranges of a part, in its own order, inside the fused weight of this shape.

    `T` (the transposed tensor) and None are all rows; `q`, `k`, `v` are as high as the layer has inputs and `mlp` is the rest;
    `grouped_k` and `grouped_v` are the halves of what `q` leaves; `1/3` is the second third. The same ranges hold for the fused bias.
    Raises ValueError for any other part.
    """
    count = weight_shape[0]
    if part is None or part == "T":
        return (slice(0, count),)
    if part == "swap":
        return slice(count // 2, count), slice(0, count // 2)
    if match := _FRACTION.fullmatch(part):
        index, number = int(match[1]), int(match[2])
        return (slice(index * count // number, (index + 1) * count // number),)
    if part not in PARTS:
        raise ValueError(f"{part!r} is not a part of a fused weight; the parts are {', '.join(PARTS)} and fractions as 0/2")
    width = weight_shape[1]
    if part.startswith("grouped_"):
        middle = (count + width) // 2
        return (slice(width, middle) if part == "grouped_k" else slice(middle, count),)
    if part == "qkv":
        return (slice(0, 3 * width),)
    start = PARTS.index(part) * width
    return (slice(start, count if part == "mlp" else start + width),)
