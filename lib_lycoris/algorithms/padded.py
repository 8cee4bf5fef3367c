"""ΔW = (ΔW of the first c input channels, 0 for the others).

A network for the plain model on an inpainting or edit model: the first convolution of those has further input channels, which the network
knows nothing of. Made when a network is matched with a model; never in a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer
from .base import Algorithm, Factors, precise


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

    def values(self) -> dict[str, Tensor | float]:
        """Return what the inner algorithm stores."""
        return self.inner.values()

    @property
    def label(self) -> str:
        """The name, and the inner algorithm's."""
        return f"{self.name} over {self.inner.label}"

    @property
    def reads_weight(self) -> bool:
        """Tell whether the inner ΔW depends on the base weight."""
        return self.inner.reads_weight

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

    def scaled(self, strength: float) -> Algorithm | None:
        """Return this with the inner algorithm scaled."""
        inner = self.inner.scaled(strength)
        return None if inner is None else replace(self, inner=inner)

    def _leading(self, shape: Sequence[int]) -> tuple[int, ...]:
        return shape[0], self.channels, *shape[2:]

    def low_rank(self, shape: Sequence[int], weight: Tensor | None = None) -> Factors | None:
        """Return the inner factors with zeros in down for the other channels."""
        found = self.inner.low_rank(self._leading(shape), None if weight is None else weight[:, : self.channels])
        if found is None:
            return None
        up, down = found
        wide = down.new_zeros(len(down), shape[1], prod(shape[2:]))
        wide[:, : self.channels] = down.reshape(len(down), self.channels, -1)
        return up, wide.flatten(1)

    def energy(self, shape: Sequence[int]) -> float | None:
        """Return the inner ‖ΔW‖²."""
        return self.inner.energy(self._leading(shape))

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why the inner algorithm does not fit the leading channels."""
        return self.inner.check_shape(self._leading(shape))

    def delta(self, weight: Tensor) -> Tensor:
        """Return the inner ΔW with zeros behind it."""
        found = torch.zeros_like(precise(weight, weight))
        found[:, : self.channels] = self.inner.delta(weight[:, : self.channels])
        return found

    def bypass(self, layer: Layer) -> Bypass:
        """Return the inner change on the leading channels; W's other channels take no part in what the inner one makes of W."""
        count = self.channels
        leading = replace(layer, source=lambda: layer.weight[:, :count], shape=torch.Size(self._leading(layer.shape)))
        inner = self.inner.bypass(leading)

        def act(x: Tensor, y: Tensor) -> Tensor:
            part = x[..., :count] if layer.convolution is None else x[:, :count]
            return inner(part, leading.base(part))

        return Bypass(act)
