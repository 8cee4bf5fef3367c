"""W' = α·cosθ ⊙ W + α·sinθ ⊙ (W with the halves of each group of output rows exchanged, (-second, first)); the bias is turned as well.

RoAd (arXiv 2409.00119) by PEFT, on linear layers: its forward turns the layer's output. ``road_1`` has one θ and one α for each pair of
rows, ``road_2`` one for each row, ``road_4`` two; the size of ``road_theta`` tells. The config has the ``group_size``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer
from .base import Algorithm, columns, precise, stored
from .config import Config


@dataclass(frozen=True, eq=False, kw_only=True)
class RoAd(Algorithm):
    """Angles and lengths."""

    name: ClassVar[str] = "road"
    reads_output: ClassVar[bool] = True
    keeps_zero: ClassVar[bool] = True

    theta: Tensor = stored("road_theta", axes=(1, 1))  # (out/2,), (out,) or (2·out,)
    lengths: Tensor = stored("road_alpha", axes=(1, 1))
    group: int = 64

    @classmethod
    def from_config(cls, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the group size."""
        return {"group": config.integer("group_size", 64, least=2)}

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the angles are not those of the layer's outputs; a bias has them too."""
        size, rows = self.theta.numel(), shape[0] if shape else 0
        if len(shape) > 2 and columns(shape) != shape[1]:
            return f"road is trained on linear layers only, but the layer is {tuple(shape)}"
        known = rows and self.lengths.numel() == size and size * 2 in (rows, 2 * rows, 4 * rows)
        if known and self.group % 2 == 0 and rows % self.group == 0:
            return None
        got = f"road_theta {tuple(self.theta.shape)} and road_alpha {tuple(self.lengths.shape)} in groups of {self.group}"
        return f"{got} do not fit the {rows} outputs of a layer {tuple(shape)} - is this file for another model?"

    def on_bias(self, shape: Sequence[int]) -> Algorithm | None:
        """Return this: the output that is turned has the bias in it."""
        return self

    def _gains(self, like: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Return α·cosθ and α·sinθ as (out,)."""
        theta, lengths = (precise(t, like).reshape(-1, self.group // 2) for t in (self.theta, self.lengths))
        if theta.numel() * 2 == rows:
            theta, lengths = theta.repeat_interleave(2, dim=0), lengths.repeat_interleave(2, dim=0)
        if theta.numel() == 2 * rows:  # group by group: those of the cosine, those of the sine
            first, second = theta.reshape(-1, 2, self.group).unbind(1)
            one, two = lengths.reshape(-1, 2, self.group).unbind(1)
            return (one * first.cos()).flatten(), (two * second.sin()).flatten()
        return (lengths * theta.cos()).flatten(), (lengths * theta.sin()).flatten()

    def _exchanged(self, values: Tensor, axis: int) -> Tensor:
        """Return (second half, first half) of every group along an axis; the sign is the sine's."""
        before, behind = values.shape[:axis], values.shape[axis + 1 :]
        halves = values.reshape(*before, values.shape[axis] // self.group, 2, self.group // 2, *behind)
        return halves.flip(axis + 1).reshape(values.shape)

    def _signed(self, sin: Tensor) -> Tensor:
        """Return a vector (out,) with the first half of every group negated."""
        halves = sin.reshape(-1, 2, self.group // 2)
        return torch.stack((-halves[:, 0], halves[:, 1]), 1).flatten()

    def delta(self, weight: Tensor) -> Tensor:
        """Return the turned rows minus the rows; of a bias too."""
        base = precise(weight, weight)
        cos, sin = self._gains(base, base.shape[0])
        less, sin = (gain.reshape(-1, *(1,) * (base.dim() - 1)) for gain in (cos - 1, self._signed(sin)))
        return less * base + sin * self._exchanged(base, 0)

    def bypass(self, layer: Layer) -> Bypass:
        """Return the turned output minus the output."""
        cos, sin = (layer.to_compute(gain) for gain in self._gains(layer.weight, layer.shape[0]))
        less, sin = (layer.on_channels(gain) for gain in (layer.to_compute(cos - 1), self._signed(sin)))
        linear = layer.convolution is None
        return Bypass(lambda x, y: less * y + sin * self._exchanged(y, y.dim() - 1 if linear else 1))
