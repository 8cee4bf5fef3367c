"""ΔW = (α/r) · w1 ⊗ w2, each factor whole or a product w_a · w_b, w2 with a Tucker core t2 where the file has one.

LoKr (LyCORIS; KronA, arXiv 2212.10650), by LyCORIS, PEFT and OneTrainer. The shapes say everything: no factor is inferred, and
unbalanced factorisations are read alike. GLoKr is its generalised form - any two matrices whose Kronecker product has the
layer's shape; LyCORIS <= 2.2 shipped it with these same keys. With both factors whole alpha is ignored (the trainer saves
alpha = dim and uses 1), but in PEFT's files, which always use alpha/r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Scaled, expect, flat, precise, stored
from .layer import CONVOLUTIONS, Change, Layer, dense, tucker


@dataclass(frozen=True, eq=False, kw_only=True)
class LoKr(Scaled):
    """The Kronecker product of two small matrices."""

    name: ClassVar[str] = "lokr"

    w1: Tensor | None = stored("lokr_w1", optional=True)  # (o1, i1)
    w1_a: Tensor | None = stored("lokr_w1_a", optional=True)  # (o1, r)
    w1_b: Tensor | None = stored("lokr_w1_b", optional=True)  # (r, i1)
    w2: Tensor | None = stored("lokr_w2", optional=True)  # (o2, i2, *k) or (o2, i2·k)
    w2_a: Tensor | None = stored("lokr_w2_a", optional=True)  # (o2, r); (r, o2) with t2
    w2_b: Tensor | None = stored("lokr_w2_b", optional=True)  # (r, i2·k); (r, i2) with t2
    t2: Tensor | None = stored("lokr_t2", optional=True)  # (r, r, *k)

    @classmethod
    def detects(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Tell whether both factors are there, whole or in two parts."""
        return all(f"lokr_{w}" in tensors or {f"lokr_{w}_a", f"lokr_{w}_b"} <= tensors.keys() for w in ("w1", "w2"))

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
        if self.rank is None and self.fixed_scale is not None and self.w1 is not None:
            found["lokr_w1"] = self.w1.float() * self.fixed_scale
        return found

    @property
    def scale(self) -> float:
        """α/r; 1 when both factors are whole and nothing outside the tensors says otherwise."""
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

    def misfit(self, shape: Sequence[int]) -> str | None:
        """Say why the Kronecker product has another shape."""
        outer, inner = self._outer(), self._inner()
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
        kernel = weight.shape[2:]
        if self.w2 is not None:
            made = precise(self.w2, weight)
        else:
            assert self.w2_a is not None and self.w2_b is not None
            a, b = precise(flat(self.w2_a), weight), precise(flat(self.w2_b), weight)
            made = a @ b if self.t2 is None else tucker(precise(self.t2, weight), a.T, b)
        return made.reshape(made.shape[0], -1, *kernel)

    def delta(self, weight: Tensor) -> Tensor:
        """Return w1 ⊗ w2 over the first two axes."""
        w1, w2 = self.first(weight), self.second(weight)
        return torch.einsum("ac,bd...->abcd...", w1, w2).reshape(weight.shape)

    def change(self, layer: Layer) -> Change:
        """Return w2 on every group of inputs, then w1 between the groups; the Kronecker product is never formed."""
        if layer.convolution is not None and layer.convolution.groups != 1:
            return dense(layer, self.delta(layer.weight))
        w1, w2 = self.first(layer.weight), self.second(layer.weight)
        if layer.convolution is None and self.w2 is None and self.t2 is None:
            return self._factored(layer, w1)
        return _whole(layer, layer.ready(w1), layer.ready(w2))

    def _factored(self, layer: Layer, first: Tensor) -> Change:
        assert self.w2_a is not None and self.w2_b is not None
        w1, a, b = (layer.ready(t) for t in (first, flat(self.w2_a), flat(self.w2_b)))

        def act(x: Tensor, y: Tensor) -> Tensor:
            inner = (x.unflatten(-1, (w1.shape[1], b.shape[1])) @ b.T) @ a.T
            return (w1 @ inner).flatten(-2)

        return act


def _whole(layer: Layer, w1: Tensor, w2: Tensor) -> Change:
    outer, inner = w1.shape[1], w2.shape[1]

    def linear(x: Tensor, y: Tensor) -> Tensor:
        return (w1 @ (x.unflatten(-1, (outer, inner)) @ w2.T)).flatten(-2)

    def convolution(x: Tensor, y: Tensor) -> Tensor:
        assert layer.convolution is not None
        groups = layer.convolution(x.reshape(-1, inner, *x.shape[2:]), w2)  # (batch·i1, o2, *positions)
        mixed = w1 @ groups.reshape(x.shape[0], outer, -1)
        return mixed.reshape(y.shape)

    return linear if len(layer.shape) not in CONVOLUTIONS else convolution
