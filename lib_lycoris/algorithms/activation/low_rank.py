"""Δy = up · (core ∗) (down ∗ x): two thin products, which several networks on a layer can share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..products import tucker
from .bypass import Bypass, dense
from .geometry import Layer


class LowRank(Bypass):
    """Δy = up · (core ∗) (down ∗ x), scaled: the one change that several networks on a layer can share."""

    def __init__(self, layer: Layer, down: Tensor, up: Tensor, core: Tensor | None = None, scale: float = 1.0) -> None:
        self.layer = layer
        self.down = down  # (r, in, *k), or (r, in) with a core and on linear layers
        self.up = up  # (out, r')
        self.core = core  # (r', r, *k)
        self.scale = scale  # never inside a factor, which would have to be a copy of the stored one

    def inner(self, x: Tensor) -> Tensor:
        """Return (core ∗) (down ∗ x), unscaled."""
        if self.core is None:
            return self.layer.map(x, self.down)
        return self.layer.map(self.layer.pointwise(x, self.down), self.core)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ΔW·x."""
        return self.layer.pointwise(self.inner(x) * self.scale, self.up)

    def add_to(self, total: Tensor, x: Tensor, y: Tensor, bias: Tensor | None, strength: float) -> None:
        """Add s · ΔW·x in one pass over total."""
        add_mapped(self.layer, total, self.inner(x), self.up, strength * self.scale)


class Stacked:
    """Several low-rank changes of one layer as one product: their factors one behind the other."""

    def __init__(self, changes: Sequence[LowRank]) -> None:
        self.layer = changes[0].layer
        self.down = torch.cat([change.down for change in changes])  # (Σr, in, *k)
        self.up = torch.cat([change.up for change in changes], 1)  # (out, Σr)
        self._ranks = [change.up.shape[1] for change in changes]
        self._scales = [change.scale for change in changes]

    def add_to(self, total: Tensor, x: Tensor, strengths: Sequence[float]) -> None:
        """Add Σ s · ΔW·x; the strengths are put into the narrow product between the factors."""
        inner = self.layer.map(x, self.down)
        axis = -1 if self.layer.convolution is None else 1
        for part, scale, strength in zip(inner.split(self._ranks, axis), self._scales, strengths):
            part.mul_(scale * strength)
        add_mapped(self.layer, total, inner, self.up, 1.0)


def add_mapped(layer: Layer, total: Tensor, inner: Tensor, matrix: Tensor, strength: float) -> None:
    """Add s · matrix · inner over the channels to total, in place and in one pass where the memory's layout allows it.

    matrix: (out, r); inner: r channels and total: out channels, both in the layer's own layout.
    """
    if not (total.dtype == inner.dtype == matrix.dtype):  # autocast, or a layer that gives another dtype than its weight's
        total.add_(layer.pointwise(inner, matrix).to(total.dtype), alpha=strength)
    elif layer.convolution is None and total.is_contiguous():
        if total.dim() != 2:
            total, inner = total.view(-1, total.shape[-1]), inner.reshape(-1, inner.shape[-1])
        total.addmm_(inner, matrix.T, alpha=strength)
    elif layer.convolution is not None and total.is_contiguous():
        batch, (rows, ranks) = total.shape[0], matrix.shape
        total.view(batch, rows, -1).baddbmm_(matrix.expand(batch, rows, ranks), inner.reshape(batch, ranks, -1), alpha=strength)
    else:
        total.add_(layer.pointwise(inner, matrix), alpha=strength)


def low_rank(layer: Layer, up: Tensor, down: Tensor, core: Tensor | None = None, scale: float = 1.0) -> Bypass:
    """Prepare Δy from factors; up: (out, r'), down: (r, in·k) or (r, in) with core (r', r, *k)."""
    grouped = layer.convolution is not None and layer.convolution.groups != 1
    if grouped:  # a grouped convolution has no low-rank form that spans its groups
        wide = torch.promote_types(up.dtype, torch.float32)
        up, down = up.to(wide) * scale, down.to(wide)
        return dense(layer, up @ down if core is None else tucker(core.to(wide), up, down))
    if core is None:
        down = down.reshape(down.shape[0], *layer.shape[1:])
    else:
        core = layer.to_compute(core.reshape(*core.shape[:2], *layer.shape[2:]))  # a file may keep the kernel with an axis more
    return LowRank(layer, layer.to_compute(down), layer.to_compute(up), core, scale)
