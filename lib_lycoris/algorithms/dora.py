"""W' = V ⊙ magnitude / ‖V‖ with V = W + ΔW(inner): the norm over all axes but the one that the magnitude indexes.

DoRA (arXiv 2402.09353) over any other algorithm. The axis is decided by the magnitude's shape, never by metadata: (out, 1, ...) per output
(LyCORIS >= 3.2, PEFT), (1, in, ...) per input (LyCORIS before it, OneTrainer), 1-D and PEFT's (1, out, 1, 1) per output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer
from .base import Algorithm, precise, stored


@dataclass(frozen=True, eq=False, kw_only=True)
class DoRA(Algorithm):
    """Another algorithm with the norm of every row or column of the result replaced."""

    name: ClassVar[str] = "dora"
    reads_output: ClassVar[bool] = True
    binds_weight: ClassVar[bool] = True

    inner: Algorithm
    magnitude: Tensor = stored("dora_scale")
    per_output: bool | None = None  # PEFT: always; otherwise by shape

    def to_state_dict(self) -> dict[str, Tensor]:
        """Return the inner algorithm's tensors and the magnitude."""
        magnitude = self.magnitude
        if self.per_output and magnitude.dim() > 1:
            magnitude = magnitude.reshape(-1, *(1,) * (magnitude.dim() - 1))  # PEFT's (1, out, 1, 1) would be read as one of the inputs
        return {**self.inner.to_state_dict(), self.suffixes()["magnitude"]: magnitude}

    def values(self) -> dict[str, Tensor | float]:
        """Return what the inner algorithm stores, and the magnitude."""
        return {**self.inner.values(), **super().values()}

    @property
    def label(self) -> str:
        """The name, and the inner algorithm's."""
        return f"{self.name} over {self.inner.label}"

    @property
    def direction(self) -> Algorithm:
        """The inner algorithm."""
        return self.inner

    def magnitudes(self) -> dict[str, Tensor]:
        """Return the magnitude."""
        return {self.suffixes()["magnitude"]: self.magnitude}

    @property
    def rank(self) -> int | None:
        """The inner algorithm's rank."""
        return self.inner.rank

    def axis(self, shape: Sequence[int]) -> int | None:
        """Return the axis of W that the magnitude indexes; None when it fits neither."""
        size, first = self.magnitude.numel(), self.magnitude.shape[0] if self.magnitude.dim() else 1
        if len(shape) < 2:
            return None
        if self.per_output or self.magnitude.dim() <= 1:
            return 0 if size == shape[0] else None
        if first == shape[0] and size == shape[0]:
            return 0
        return 1 if first == 1 and size == shape[1] else None

    def output_magnitude(self, shape: Sequence[int]) -> Tensor | None:
        """Return the magnitude of each output; None where inputs have them."""
        return self.magnitude.flatten() if self.axis(shape) == 0 else None

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the inner algorithm does not fit, or that the magnitude indexes no axis."""
        if problem := self.inner.check_shape(shape):
            return problem
        if self.axis(shape) is None:
            return f"dora_scale {tuple(self.magnitude.shape)} fits no axis of the layer {tuple(shape)}"
        return None

    def rows(self, its: slice | Tensor) -> Algorithm | None:
        """Return the inner algorithm's rows with their magnitudes; None where inputs have them, whose norms all rows make."""
        one_each = self.per_output or self.magnitude.dim() <= 1 or self.magnitude.shape[0] == self.magnitude.numel() > 1
        inner = self.inner.rows(its) if one_each else None
        magnitude = self.magnitude.flatten()[its].reshape(-1, *(1,) * (self.magnitude.dim() - 1))
        return None if inner is None else replace(self, inner=inner, magnitude=magnitude)

    def truncated(self, ranks: int) -> Algorithm:
        """Return this: the magnitude belongs to all ranks."""
        return self

    def with_alpha(self, alpha: float) -> Algorithm | None:
        """Return the inner algorithm with this alpha under the same magnitude."""
        inner = self.inner.with_alpha(alpha)
        return None if inner is None else replace(self, inner=inner)

    def _gain(self, value: Tensor) -> Tensor:
        """Return magnitude / ‖V‖, shaped to multiply V."""
        axis = self.axis(value.shape)
        norm = torch.linalg.vector_norm(value, dim=[a for a in range(value.dim()) if a != axis], keepdim=True)
        # a row that is all zero stays so whatever its magnitude
        ratio: Tensor = precise(self.magnitude, value).reshape(norm.shape) / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        return ratio

    def delta(self, weight: Tensor) -> Tensor:
        """Return the decomposed weight minus the weight."""
        base = precise(weight, weight)
        value = base + self.inner.delta(weight)
        return value * self._gain(value) - base

    def bypass(self, layer: Layer) -> Bypass:
        """Return the output of V, scaled on its own axis, minus the output.

        The norm of V is taken once, when the change is prepared, from a V that is dropped at once; the forward never forms it.
        """
        inner = self.inner.bypass(layer)
        weight = layer.weight
        gain = layer.on_channels(layer.to_compute(self._gain(precise(weight, weight) + self.inner.delta(weight)).flatten()))
        if self.axis(layer.shape) == 0:
            return Bypass(lambda x, y: gain * inner(x, y) + (gain - 1) * y)

        def act(x: Tensor, y: Tensor) -> Tensor:
            scaled = gain * x
            base = layer.base(scaled)
            return base + inner(scaled, base) - y

        return Bypass(act)
