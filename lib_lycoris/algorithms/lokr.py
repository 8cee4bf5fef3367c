"""ΔW = (α/r) · w1 ⊗ w2, each factor whole or a product w_a · w_b, w2 with a Tucker core t2 where the file has one.

LoKr (LyCORIS; KronA, arXiv 2212.10650), by LyCORIS, PEFT and OneTrainer. The shapes say everything: no factor is inferred, and
unbalanced factorisations are read alike. GLoKr is its generalised form - any two matrices whose Kronecker product has the
layer's shape; LyCORIS <= 2.2 shipped it with these same keys. With both factors whole alpha is ignored (the trainer saves
alpha = dim and uses 1), but in PEFT's files, which always use alpha/r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, prod, sqrt
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Cost, Layer, dense
from .base import Factors, Scaled, expect, flat, precise, stored
from .config import NO_CONFIG, Config
from .factored import decomposed, decomposed_product, shaped
from .products import tucker
from .stored_values import Ways


@dataclass(frozen=True, eq=False, kw_only=True)
class LoKr(Scaled):
    """The Kronecker product of two small matrices."""

    name: ClassVar[str] = "lokr"
    additive: ClassVar[bool] = True
    ways: ClassVar[Ways] = (
        (frozenset({"lokr_w1"}), frozenset({"lokr_w1_a", "lokr_w1_b"})),
        (frozenset({"lokr_w2"}), frozenset({"lokr_w2_a", "lokr_w2_b"}), frozenset({"lokr_w2_a", "lokr_w2_b", "lokr_t2"})),
    )
    one_of_each_term: ClassVar[tuple[str, ...]] = ("w1", "w1_a")

    w1: Tensor | None = stored("lokr_w1", optional=True, axes=(2, 5))  # (o1, i1)
    w1_a: Tensor | None = stored("lokr_w1_a", optional=True, axes=(2, 5))  # (o1, r)
    w1_b: Tensor | None = stored("lokr_w1_b", optional=True, axes=(2, 5))  # (r, i1)
    w2: Tensor | None = stored("lokr_w2", optional=True, axes=(2, 5))  # (o2, i2, *k) or (o2, i2·k)
    w2_a: Tensor | None = stored("lokr_w2_a", optional=True, axes=(2, 5))  # (o2, r); (r, o2) with t2
    w2_b: Tensor | None = stored("lokr_w2_b", optional=True, axes=(2, 5))  # (r, i2·k); (r, i2) with t2
    t2: Tensor | None = stored("lokr_t2", optional=True, axes=(2, 5))  # (r, r, *k)

    alpha_over_root: bool = False  # kohya's krona and cdka, both factors whole: α/√i1, which network_args alone tell

    @classmethod
    def detects(cls, tensors: Mapping[str, Tensor], config: Config = NO_CONFIG) -> bool:
        """Tell whether both factors are there, whole or in two parts."""
        return all(any(way <= tensors.keys() for way in ways) for ways in cls.ways)

    @property
    def rank(self) -> int | None:
        """The rank of the factor that is a product; None when both are whole."""
        inner = self.w2_b if self.w2 is None else self.w1_b if self.w1 is None else None
        return None if inner is None else inner.shape[0]

    @property
    def is_zero(self) -> bool:
        """Tell whether a stored factor is all zero."""
        return not all(bool(t.float().any()) for t in self.tensors().values())

    def to_state_dict(self) -> dict[str, Tensor]:
        """Return ``suffix -> tensor``; a fixed scale of two whole factors goes into w1, since alpha is ignored there."""
        found = super().to_state_dict()
        if self.rank is None and not isfinite(self.alpha or 0.0):
            del found["alpha"]  # what it was did not fit its dtype
        if self.rank is None and self.scale != 1 and self.w1 is not None:
            found["lokr_w1"] = self.w1.float() * self.scale
        return found

    @property
    def scale(self) -> float:
        """α/r; 1 when both factors are whole and nothing outside the tensors says otherwise."""
        if self.alpha_over_root and self.rank is None and self.alpha is not None:
            return self.alpha / sqrt(self._outer()[1])
        return super().scale if self.rank is not None or self.fixed_scale is not None else 1.0

    def _outer(self) -> tuple[int, int]:
        if self.w1 is not None:
            return self.w1.shape[0], self.w1[0].numel()
        assert self.w1_a is not None and self.w1_b is not None
        return self.w1_a.shape[0], flat(self.w1_b).shape[1]

    def _inner(self) -> tuple[int, ...]:
        if self.w2 is not None:
            return tuple(self.w2.shape)
        assert self.w2_a is not None and self.w2_b is not None
        if self.t2 is None:
            return self.w2_a.shape[0], flat(self.w2_b).shape[1]
        return self.w2_a.shape[1], self.w2_b.shape[1], *self.t2.shape[2:]

    def _parts_problem(self) -> str | None:
        """Say why the two parts of a factor do not multiply, or the scale is none."""
        if self.alpha_over_root and not isfinite(self.alpha or 0.0):
            return f"alpha is {self.alpha}, which is no strength of a network"
        if self.w1 is None and flat(self.w1_a).shape[1] != self.w1_b.shape[0]:  # type: ignore[arg-type,union-attr]
            return f"lokr_w1_a {tuple(self.w1_a.shape)} and lokr_w1_b {tuple(self.w1_b.shape)} have different ranks"  # type: ignore[union-attr]
        if self.w2 is None:
            assert self.w2_a is not None and self.w2_b is not None
            ranks = (flat(self.w2_a).shape[1], self.w2_b.shape[0]) if self.t2 is None else (self.w2_a.shape[0], self.w2_b.shape[0])
            if (self.t2 is None and ranks[0] != ranks[1]) or (self.t2 is not None and tuple(self.t2.shape[:2]) != ranks):
                return f"lokr_w2_a {tuple(self.w2_a.shape)} and lokr_w2_b {tuple(self.w2_b.shape)} have different ranks"
        return None

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why the Kronecker product has another shape."""
        if problem := self._parts_problem():
            return problem
        outer, inner = self._outer(), self._inner()
        if len(shape) < 2 or shape[1] % outer[1] or len(inner) < 2:
            return f"lokr_w1 {outer} x lokr_w2 {inner} does not divide the layer {tuple(shape)} - is this file for another model?"
        got = (outer[0] * inner[0], outer[1] * inner[1], *inner[2:])
        return expect(f"lokr_w1 {outer} x lokr_w2 {inner}", got, shape)

    def first(self, weight: Tensor) -> Tensor:
        """Return w1 (o1, i1) with the scale in it."""
        if self.w1 is not None:
            return precise(flat(self.w1), weight) * self.scale
        assert self.w1_a is not None and self.w1_b is not None
        return precise(flat(self.w1_a), weight) @ precise(flat(self.w1_b), weight) * self.scale

    def second(self, weight: Tensor) -> Tensor:
        """Return w2 as (o2, i2, *k)."""
        if self.w2 is not None:
            made = precise(self.w2, weight)
        elif self.t2 is None:
            left, right = self._halves(weight)
            made = left @ right
        else:
            assert self.w2_a is not None and self.w2_b is not None
            made = tucker(precise(self.t2, weight), precise(flat(self.w2_a), weight).T, precise(flat(self.w2_b), weight))
        return made.reshape(made.shape[0], -1, *weight.shape[2:])

    def _halves(self, weight: Tensor) -> Factors:
        """Return w2_a (o2, r) and w2_b (r, i2·k)."""
        assert self.w2_a is not None and self.w2_b is not None
        return precise(flat(self.w2_a), weight), precise(flat(self.w2_b), weight)

    def delta(self, weight: Tensor) -> Tensor:
        """Return w1 ⊗ w2 over the first two axes."""
        w1, w2 = self.first(weight), self.second(weight)
        return torch.einsum("ac,bd...->abcd...", w1, w2).reshape(weight.shape)

    def add_delta(self, out: Tensor, base: Tensor, weight: Tensor, strength: float) -> None:
        """Write base + s · ΔW into out in one pass; the Kronecker product is never formed."""
        w1, w2 = self.first(weight), self.second(weight).flatten(1)
        blocks = out.view(w1.shape[0], w2.shape[0], w1.shape[1], w2.shape[1])
        if base.dtype != out.dtype:
            base = out.copy_(base)
        torch.addcmul(base.reshape(blocks.shape), w1[:, None, :, None], w2[None, :, None, :], value=strength, out=blocks)

    def low_rank(self, shape: Sequence[int], weight: Tensor | None = None) -> Factors | None:
        """Return the Kronecker products of both factors' singular vectors, of rank r1 · r2."""
        weight = shaped(shape)
        a, b = decomposed(flat(self.first(weight)))
        whole = self.w2 is not None or self.t2 is not None
        c, d = decomposed(flat(self.second(weight))) if whole else decomposed_product(*self._halves(weight))
        return kron(a, c).float(), kron(b, d).float()

    def energy(self, shape: Sequence[int]) -> float | None:
        """Return ‖w1‖² · ‖w2‖²."""
        return float(self.first(shaped(shape)).square().sum() * self.second(shaped(shape)).square().sum())

    def cost(self, shape: Sequence[int]) -> Cost:
        """Return the cost of w2 on every group of inputs and of w1 between them, or of one pass over the weight."""
        size, (o1, i1), (o2, i2) = float(prod(shape)), self._outer(), self._inner()[:2]
        columns = prod(self._inner()[1:])
        factored = self.w2 is None and self.t2 is None and self.w2_b is not None
        inner = self.w2_b.shape[0] * (i1 * columns + o1 * o2) if factored and self.w2_b is not None else min(i1, o1) * o2 * columns
        return Cost(inner + o1 * i1 * min(o2, i2), 3.0 * (shape[0] + shape[1]), size, 2.0 * size)

    def bypass(self, layer: Layer) -> Bypass:
        """Return w2 on every group of inputs and w1 between the groups; the Kronecker product is never formed."""
        if layer.convolution is not None and layer.convolution.groups != 1:
            return dense(layer, self.delta(layer.weight))
        w1 = layer.to_compute(self.first(layer.weight))
        if self.w2 is None and self.t2 is None:
            assert self.w2_a is not None and self.w2_b is not None
            b = layer.to_compute(flat(self.w2_b)).reshape(-1, *self._inner_input(layer))
            return Kronecker(layer, w1, b, layer.to_compute(flat(self.w2_a)))
        return Kronecker(layer, w1, layer.to_compute(self.second(layer.weight)))

    def _inner_input(self, layer: Layer) -> tuple[int, ...]:
        """Return (i2, *k)."""
        return layer.shape[1] // self._outer()[1], *layer.shape[2:]


def kron(a: Tensor, b: Tensor) -> Tensor:
    """Return the Kronecker product; torch's own refuses some strides."""
    return torch.einsum("ac,bd->abcd", a, b).reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])


class Kronecker(Bypass):
    """Δy = (w1 ⊗ w2) · x, with w2 whole or as a product a · b; w1 works between the groups of channels where they are the narrowest."""

    def __init__(self, layer: Layer, w1: Tensor, b: Tensor, a: Tensor | None = None) -> None:
        self.layer = layer
        self.w1 = w1  # (o1, i1)
        self.b = b  # (r, i2, *k) with a, else w2 itself: (o2, i2, *k)
        self.a = a  # (o2, r)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ΔW·x."""
        total = torch.zeros(y.shape, dtype=x.dtype, device=x.device)
        self.add_to(total, x, y, None, 1.0)
        return total

    def add_to(self, total: Tensor, x: Tensor, y: Tensor, bias: Tensor | None, strength: float) -> None:
        """Add s · ΔW·x in one pass over total."""
        if not total.is_contiguous() or not (total.dtype == x.dtype == self.w1.dtype):
            wanted = torch.zeros(total.shape, dtype=self.w1.dtype, device=total.device)
            self._add(wanted, x.to(self.w1.dtype), 1.0)
            total.add_(wanted.to(total.dtype), alpha=strength)
        else:
            self._add(total, x, strength)

    def _add(self, total: Tensor, x: Tensor, strength: float) -> None:
        if self.layer.convolution is None:
            self._add_linear(total, x, strength)
        else:
            self._add_convolved(total, x, strength)

    def _add_linear(self, total: Tensor, x: Tensor, strength: float) -> None:
        (o1, i1), (width, i2) = self.w1.shape, self.b.shape
        groups = x.reshape(-1, i1, i2)
        if self.a is not None:
            mixed = self.w1 @ (groups @ self.b.T)  # (positions, o1, r)
            total.view(-1, self.a.shape[0]).addmm_(mixed.view(-1, width), self.a.T, alpha=strength)
        elif i2 <= width:
            mixed = torch.matmul(self.w1, groups)  # (positions, o1, i2)
            total.view(-1, width).addmm_(mixed.view(-1, i2), self.b.T, alpha=strength)
        else:
            inner = groups @ self.b.T  # (positions, i1, o2)
            total.view(-1, o1, width).baddbmm_(self.w1.expand(len(inner), o1, i1), inner, alpha=strength)

    def _add_convolved(self, total: Tensor, x: Tensor, strength: float) -> None:
        assert self.layer.convolution is not None
        (o1, i1), batch = self.w1.shape, x.shape[0]
        inner = self.layer.convolution(x.reshape(batch * i1, -1, *x.shape[2:]), self.b)  # (batch·i1, r or o2, *positions)
        inner = inner.reshape(batch, i1, -1)
        first = self.w1.expand(batch, o1, i1)
        if self.a is None:
            total.view(batch, o1, -1).baddbmm_(first, inner, alpha=strength)
            return
        mixed = torch.bmm(first, inner).view(batch * o1, self.a.shape[1], -1)
        total.view(batch * o1, self.a.shape[0], -1).baddbmm_(self.a.expand(batch * o1, *self.a.shape), mixed, alpha=strength)
