"""ΔW = (α/r) · (W · a1 · a2 + b1 · b2); on convolutions W·a1·a2 mixes the input channels at every kernel position.

GLoRA (arXiv 2306.07967), by LyCORIS. Two layouts are about: since 3.0 a1 (in, r), a2 (r, in), b1 (out, r), b2 (r, in); before it
a1 and b1 were the down and a2 and b2 the up projections, ΔW = (α/r) · (W · a2 · a1 + b2 · b1). The layer's shape tells which.

Disputed: LyCORIS 1.9 to 2.2 multiplied by (α/r)² in its forward and by α/r when merging; before and since it is α/r, and nothing in
the file tells the release. We take α/r. With rs_lora=True in ss_network_args LyCORIS uses α/√r, which the reader passes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer, low_rank
from .base import Factors, Scaled, columns, flat, precise, stored


@dataclass(frozen=True, eq=False, kw_only=True)
class GLoRA(Scaled):
    """A low-rank change of W's input side and a low-rank change beside it."""

    name: ClassVar[str] = "glora"
    one_of_each_term: ClassVar[tuple[str, ...]] = ("a1", "b1")

    a1: Tensor = stored("a1.weight", axes=(2, 5))  # (in, r); old layout (r, in)
    a2: Tensor = stored("a2.weight", axes=(2, 5))  # (r, in); old layout (in, r)
    b1: Tensor = stored("b1.weight", axes=(2, 5))  # (out, r); old layout (r, in)
    b2: Tensor = stored("b2.weight", axes=(2, 5))  # (r, in, *k); old layout (out, r)
    rank_stabilised: bool = False  # α/√r

    @property
    def rank(self) -> int:
        """The side that a1 and b1 have in common; the shorter one where the layer is square."""
        return min(set(flat(self.a1).shape) & set(flat(self.b1).shape), default=min(flat(self.a1).shape))

    @property
    def scale(self) -> float:
        """α/r, or α/√r."""
        return super().scale * (self.rank**0.5 if self.rank_stabilised else 1.0)

    @property
    def is_zero(self) -> bool:
        """Tell whether both products have an all-zero factor."""
        alive = [bool(t.float().any()) for t in (self.a1, self.a2, self.b1, self.b2)]
        return not (alive[0] and alive[1]) and not (alive[2] and alive[3])

    def _new_layout(self, shape: Sequence[int]) -> bool:
        a1, a2, b1 = (flat(t).shape for t in (self.a1, self.a2, self.b1))
        return a1[0] == shape[1] and a2[1] == shape[1] and b1[0] == shape[0]

    def _ordered(self, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        a1, a2, b1, b2 = (flat(t) for t in (self.a1, self.a2, self.b1, self.b2))
        return (a1, a2, b1, b2) if self._new_layout(shape) else (a2, a1, b2, b1)

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why neither layout gives this shape."""
        if len(shape) < 2:
            return f"glora changes layers with inputs and outputs, but the layer is {tuple(shape)}"
        left, right, up, down = self._ordered(shape)
        inner = left.shape[0] == right.shape[1] == shape[1] and left.shape[1] == right.shape[0]
        if inner and up.shape[0] == shape[0] and up.shape[1] == down.shape[0] and down.shape[1] == columns(shape):
            return None
        got = ", ".join(f"{k} {tuple(v.shape)}" for k, v in self.tensors().items())
        return f"{got} fit no layout of glora on a layer {tuple(shape)} - is this file for another model?"

    def delta(self, weight: Tensor) -> Tensor:
        """Return the change of the input side and the one beside it."""
        left, right, up, down = (precise(t, weight) for t in self._ordered(weight.shape))
        mixed = torch.einsum("oi...,ir,rj->oj...", precise(weight, weight), left, right)
        return self.scale * (mixed + (up @ down).reshape(weight.shape))

    def low_rank(self, shape: Sequence[int], weight: Tensor | None = None) -> Factors | None:
        """Return W · a1 beside b1, and a2 under b2; over kernels W · a1 · a2 is of a higher rank."""
        if weight is None or columns(shape) != shape[1]:
            return None
        left, right, up, down = (precise(t, weight) for t in self._ordered(shape))
        return torch.cat((precise(flat(weight), weight) @ left, up), 1).float() * self.scale, torch.cat((right, down)).float()

    def bypass(self, layer: Layer) -> Bypass:
        """Return W on a low-rank mix of the input - W itself is the second full-size product - and two thin products."""
        left, right, up, down = (precise(t, layer.weight) for t in self._ordered(layer.shape))
        beside = low_rank(layer, up, down, scale=self.scale)
        first, second = layer.to_compute(right), layer.to_compute(left * self.scale)
        return Bypass(lambda x, y: layer.base(layer.pointwise(layer.pointwise(x, first), second)) + beside(x, y))
