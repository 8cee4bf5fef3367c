"""ΔW = (α/r) · (w1_a · w1_b) ⊙ (w2_a · w2_b); each product with a Tucker core t where the file has one.

LoHa (FedPara, arXiv 2108.06098), written by LyCORIS, PEFT and OneTrainer (4-D factors on convolutions). As an activation it is
low-rank too: (a ⊙ c)(b ⊙ d) summed over pairs of ranks, the Khatri-Rao products of the factors, of rank r².

Disputed: LyCORIS <= 1.9.0 trained Tucker convolutions with hada_t1 in both halves but saved hada_t2 as well. The file does not
say which release wrote it; we read t1 and t2, as every loader and later release does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Scaled, expect, flat, precise, stored
from .layer import Change, Layer, low_rank, tucker


@dataclass(frozen=True, eq=False, kw_only=True)
class LoHa(Scaled):
    """The elementwise product of two low-rank matrices."""

    name: ClassVar[str] = "loha"

    w1_a: Tensor = stored("hada_w1_a")  # (out, r); (r, out) with t1
    w1_b: Tensor = stored("hada_w1_b")  # (r, in·k); (r, in) with t1
    w2_a: Tensor = stored("hada_w2_a")
    w2_b: Tensor = stored("hada_w2_b")
    t1: Tensor | None = stored("hada_t1", optional=True)  # (r, r, *k)
    t2: Tensor | None = stored("hada_t2", optional=True)

    @property
    def rank(self) -> int:
        """The rows of w1_b; the product has rank up to its square."""
        return self.w1_b.shape[0]

    @property
    def is_zero(self) -> bool:
        """Tell whether a factor is all zero."""
        return not all(bool(t.float().any()) for t in (self.w1_a, self.w1_b, self.w2_a, self.w2_b))

    def misfit(self, shape: Sequence[int]) -> str | None:
        """Say why either product has another shape."""
        for half, (a, b, t) in {1: (self.w1_a, self.w1_b, self.t1), 2: (self.w2_a, self.w2_b, self.t2)}.items():
            a, b = flat(a), flat(b)
            if a.shape[0 if t is not None else 1] != b.shape[0]:
                return f"hada_w{half}_a {tuple(a.shape)} and hada_w{half}_b {tuple(b.shape)} have different ranks"
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

    def change(self, layer: Layer) -> Change:
        """Return two thin products of rank r²."""
        return low_rank(layer, *self.factors(layer.weight))
