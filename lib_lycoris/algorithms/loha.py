"""ΔW = (α/r) · (w1_a · w1_b) ⊙ (w2_a · w2_b); each product with a Tucker core t where the file has one.

LoHa (FedPara, arXiv 2108.06098), written by LyCORIS, PEFT and OneTrainer (4-D factors on convolutions). As an activation it is
low-rank too: (a ⊙ c)(b ⊙ d) summed over pairs of ranks, the Khatri-Rao products of the factors, of rank r².

Disputed: LyCORIS <= 1.9.0 trained Tucker convolutions with hada_t1 in both halves but saved hada_t2 as well. The file does not
say which release wrote it; we read t1 and t2, as every loader and later release does.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Cost, Layer, dense, low_rank
from .base import Factors, Scaled, columns, expect, flat, precise, stored
from .factored import energy_of, flattened, shaped
from .products import FEW, row_blocks, tucker
from .stored_values import Ways


@dataclass(frozen=True, eq=False, kw_only=True)
class LoHa(Scaled):
    """The elementwise product of two low-rank matrices."""

    name: ClassVar[str] = "loha"
    additive: ClassVar[bool] = True
    ways: ClassVar[Ways] = ((frozenset(), frozenset({"hada_t1", "hada_t2"})),)  # never one core alone
    one_of_each_term: ClassVar[tuple[str, ...]] = ("w1_a",)

    w1_a: Tensor = stored("hada_w1_a", axes=(2, 5))  # (out, r); (r, out) with t1
    w1_b: Tensor = stored("hada_w1_b", axes=(2, 5))  # (r, in·k); (r, in) with t1
    w2_a: Tensor = stored("hada_w2_a", axes=(2, 5))
    w2_b: Tensor = stored("hada_w2_b", axes=(2, 5))
    t1: Tensor | None = stored("hada_t1", optional=True, axes=(2, 5))  # (r, r, *k)
    t2: Tensor | None = stored("hada_t2", optional=True, axes=(2, 5))

    @property
    def rank(self) -> int:
        """The rows of w1_b; the product has rank up to its square."""
        return self.w1_b.shape[0]

    @property
    def is_zero(self) -> bool:
        """Tell whether a factor is all zero."""
        return not all(bool(t.float().any()) for t in (self.w1_a, self.w1_b, self.w2_a, self.w2_b))

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why either product has another shape."""
        if self.t1 is not None and self.t2 is not None and self.t1.shape[2:] != self.t2.shape[2:]:
            return f"hada_t1 {tuple(self.t1.shape)} and hada_t2 {tuple(self.t2.shape)} have different kernels"
        for half, (a, b, t) in {1: (self.w1_a, self.w1_b, self.t1), 2: (self.w2_a, self.w2_b, self.t2)}.items():
            a, b = flat(a), flat(b)
            if a.shape[0 if t is not None else 1] != b.shape[0]:
                return f"hada_w{half}_a {tuple(a.shape)} and hada_w{half}_b {tuple(b.shape)} have different ranks"
            if t is not None and t.shape[:2] != (a.shape[0], b.shape[0]):
                return f"hada_t{half} {tuple(t.shape)} does not stand between ranks of {a.shape[0]} and {b.shape[0]}"
            got = (a.shape[0], b.shape[1]) if t is None else (a.shape[1], b.shape[1], *t.shape[2:])
            if problem := expect(f"hada_w{half}_a {tuple(a.shape)} x hada_w{half}_b {tuple(b.shape)}", got, shape):
                return problem
        return None

    def halves(self, weight: Tensor) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Return (up (out, r), down (r, in·k or in), core) of both low-rank matrices, unscaled."""
        both = ((self.w1_a, self.w1_b, self.t1), (self.w2_a, self.w2_b, self.t2))
        made = [(precise(flat(a), weight), precise(flat(b), weight), None if t is None else precise(t, weight)) for a, b, t in both]
        return [(a if t is None else a.T, b, t) for a, b, t in made]

    def delta(self, weight: Tensor) -> Tensor:
        """Return the elementwise product of both."""
        first, second = (a @ b if t is None else tucker(t, a, b) for a, b, t in self.halves(weight))
        return (self.scale * first).reshape(weight.shape) * second.reshape(weight.shape)

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return ΔW as LoRA factors of rank r²: up (out, r²) with the scale in it, down (r², in·k or in), core (r², r², *k)."""
        (a, b, t), (c, d, u) = self.halves(weight)
        up = torch.einsum("op,oq->opq", a * self.scale, c).flatten(1)
        down = torch.einsum("pi,qi->pqi", b, d).flatten(0, 1)
        if t is None or u is None:
            return up, down, None
        core = torch.einsum("pr...,qs...->pqrs...", t, u)
        return up, down, core.flatten(2, 3).flatten(0, 1)

    def low_rank(self, shape: Sequence[int], weight: Tensor | None = None) -> Factors | None:
        """Return the factors of rank r²; there are none where one half alone has a core."""
        return flattened(*self.factors(shaped(shape))) if (self.t1 is None) == (self.t2 is None) else None

    def energy(self, shape: Sequence[int]) -> float | None:
        """Return ‖ΔW‖² from the factors' Gram matrices, where r² ranks are fewer than ΔW's."""
        pair = self.low_rank(shape) if self.rank**2 <= min(shape[:2]) else None
        return None if pair is None else energy_of(*pair)

    def bypass(self, layer: Layer) -> Bypass:
        """Return two thin products of rank r²; without cores their factors are made for each forward, from the smaller stored ones."""
        if self.t1 is not None and self.t2 is not None:
            return low_rank(layer, *self.factors(layer.weight))
        a, b, c, d = (layer.to_compute(flat(t)) for t in (self.w1_a, self.w1_b, self.w2_a, self.w2_b))
        return _Products(layer, a, b, c, d, self.scale)

    def add_delta(self, out: Tensor, base: Tensor, weight: Tensor, strength: float) -> None:
        """Write base + s · ΔW into out, some rows at a time."""
        (a, b, t), (c, d, _) = self.halves(weight)
        if t is not None:
            super().add_delta(out, base, weight, strength)
            return
        target, source = out.view(out.shape[0], -1), base.reshape(out.shape[0], -1)
        blocks = list(row_blocks(target, few=FEW))
        # one piece of memory for all blocks: to get one for each takes longer than the products
        one, other = torch.empty(2, blocks[-1].stop - blocks[-1].start, target.shape[1], dtype=a.dtype, device=a.device)
        for rows in blocks:
            count = rows.stop - rows.start
            product = torch.mm(a[rows], b, out=one[:count]).mul_(torch.mm(c[rows], d, out=other[:count]))
            torch.add(source[rows], product, alpha=strength * self.scale, out=target[rows])

    def cost(self, shape: Sequence[int]) -> Cost:
        """Return the cost of thin products of rank r², or of the two products and their elementwise one."""
        size, pairs = float(prod(shape)), min(self.rank**2, shape[0], columns(shape))
        return Cost(pairs * (shape[0] + columns(shape)), 2.0 * shape[0], 2.0 * self.rank * size, 4.0 * size)


class _Products(Bypass):
    """Δy from LoHa's four factors: a, c (out, r) and b, d (r, in·k)."""

    def __init__(self, layer: Layer, a: Tensor, b: Tensor, c: Tensor, d: Tensor, scale: float) -> None:
        self.layer, self.a, self.b, self.c, self.d, self.scale = layer, a, b, c, d, scale

    def _now(self) -> Bypass:
        """Return the change as thin products, or as a full-size one where r² ranks would be more work than that."""
        a, b, c, d = self.a, self.b, self.c, self.d
        out, rank, cols = a.shape[0], a.shape[1] * c.shape[1], b.shape[1]
        if rank * (out + cols) > out * cols:
            return dense(self.layer, (a @ b).mul_(c @ d).mul_(self.scale))
        up = (a[:, :, None] * c[:, None, :]).flatten(1)
        return low_rank(self.layer, up, (b[:, None, :] * d[None, :, :]).flatten(0, 1), scale=self.scale)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ΔW·x."""
        return self._now()(x, y)

    def add_to(self, total: Tensor, x: Tensor, y: Tensor, bias: Tensor | None, strength: float) -> None:
        """Add s · ΔW·x."""
        self._now().add_to(total, x, y, bias, strength)
