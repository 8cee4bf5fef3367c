"""ΔW = set_weight - W: the parameter is replaced at strength 1.

Written by ComfyUI's tools, which replace at every strength, 0 included; we follow the linear rule, so that 0 is off. PEFT saves the biases
that it trained (``bias="all"``) as they are, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import ClassVar

from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer, dense
from .base import Algorithm, precise, stored


@dataclass(frozen=True, eq=False, kw_only=True)
class Replacement(Algorithm):
    """A whole parameter."""

    name: ClassVar[str] = "replacement"
    reads_output: ClassVar[bool] = True

    value: Tensor = stored("set_weight")  # the parameter's shape

    @property
    def key(self) -> str:
        """The key suffix that the value is stored under."""
        return self.suffixes()["value"]

    def rows(self, its: slice | Tensor) -> Algorithm | None:
        """Return these rows of the value."""
        return replace(self, value=self.value[its])

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the parameter has another shape."""
        if self.value.numel() == prod(shape) and (not shape or self.value.shape[0] == shape[0]):
            return None
        return f"{self.key} is {tuple(self.value.shape)}, but the parameter is {tuple(shape)} - is this file for another model?"

    def delta(self, weight: Tensor) -> Tensor:
        """Return what is missing to the stored parameter."""
        return precise(self.value, weight).reshape(weight.shape) - precise(weight, weight)

    def bypass(self, layer: Layer) -> Bypass:
        """Return the stored layer's output in place of y."""
        replaced = dense(layer, self.value)
        return Bypass(lambda x, y: replaced(x, y) - y)


@dataclass(frozen=True, eq=False, kw_only=True)
class BiasReplacement(Replacement):
    """A whole bias."""

    name: ClassVar[str] = "bias replacement"

    value: Tensor = stored("base_layer.bias")  # (out,)
