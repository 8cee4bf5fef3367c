"""ΔW = (ΔW of the first c input channels, 0 for the others).

A network for the plain model on an inpainting or edit model: the first convolution of those has further input channels, which the network
knows nothing of. Made when a network is matched with a model; never in a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from .activation import Bypass, Layer
from .base import Algorithm, precise


@dataclass(frozen=True, eq=False, kw_only=True)
class Padded(Algorithm):
    """Another algorithm on the leading input channels."""

    name: ClassVar[str] = "padded"

    binds_weight: ClassVar[bool] = True  # the inner one may

    inner: Algorithm
    channels: int

    def to_state_dict(self) -> dict[str, Tensor]:
        """Return the inner algorithm's tensors."""
        return self.inner.to_state_dict()

    def tensors(self) -> dict[str, Tensor]:
        """Return the inner algorithm's tensors."""
        return self.inner.tensors()

    @property
    def rank(self) -> int | None:
        """The inner algorithm's rank."""
        return self.inner.rank

    @property
    def is_zero(self) -> bool:
        """Tell whether the inner algorithm's ΔW is zero."""
        return self.inner.is_zero

    def truncated(self, ranks: int) -> Algorithm:
        """Return this with the inner algorithm cut."""
        return replace(self, inner=self.inner.truncated(ranks))

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why the inner algorithm does not fit the leading channels."""
        return self.inner.check_shape((shape[0], self.channels, *shape[2:]))

    def delta(self, weight: Tensor) -> Tensor:
        """Return the inner ΔW with zeros behind it."""
        found = torch.zeros_like(precise(weight, weight))
        found[:, : self.channels] = self.inner.delta(weight[:, : self.channels])
        return found

    def bypass(self, layer: Layer) -> Bypass:
        """Return the inner change on the leading channels; W's other channels take no part in what the inner one makes of W."""
        count = self.channels
        shape = torch.Size((layer.shape[0], count, *layer.shape[2:]))
        leading = replace(layer, source=lambda: layer.weight[:, :count], shape=shape)
        inner = self.inner.bypass(leading)

        def act(x: Tensor, y: Tensor) -> Tensor:
            part = x[:, :count]
            return inner(part, leading.base(part))

        return Bypass(act)
