"""ΔW = W ⊙ w along the input or the output channels; PEFT's factor l multiplies directly: ΔW = W ⊙ (l - 1).

(IA)^3 (arXiv 2205.05638), by LyCORIS (``weight`` and ``on_input``) and PEFT (``ia3_l``).

Disputed: LyCORIS <= 2.2 scaled the layer's output, bias included; since 3.0 the bias is left alone. Nothing in the file tells which
release wrote it; we leave the bias, as the present release does. PEFT scales the output, so its bias is scaled (the reader adds a
patch for the bias).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer
from .base import Algorithm, precise, stored
from .config import NO_CONFIG, Config


def _scaled(weight: Tensor, factor: Tensor, axis: int) -> Tensor:
    shape = [1] * weight.dim()
    shape[axis] = -1
    return precise(weight, weight) * factor.reshape(shape)


def _channel_change(layer: Layer, factor: Tensor, axis: int) -> Bypass:
    gain = layer.on_channels(layer.to_compute(factor))
    if axis == 0:
        return Bypass(lambda x, y: gain * y)
    return Bypass(lambda x, y: layer.base(gain * x))


@dataclass(frozen=True, eq=False, kw_only=True)
class IA3(Algorithm):
    """One number a channel, 0 for no change."""

    name: ClassVar[str] = "ia3"
    one_of_each_term: ClassVar[tuple[str, ...]] = ("factor",)
    reads_output: ClassVar[bool] = True
    keeps_zero: ClassVar[bool] = True

    factor: Tensor = stored("weight")  # (channels,) or (1, channels, 1, 1)
    on_input: float = stored("on_input", scalar=True)  # not 0: input channels
    turns_bias: bool = False  # LyCORIS' bypass_mode: it is the layer's output that training scaled

    def on_bias(self, shape: Sequence[int]) -> Algorithm | None:
        """Return this where the output was scaled, which has the bias in it."""
        return self if self.turns_bias and not self.on_input else None

    @property
    def axis(self) -> int:
        """The axis of W that is scaled."""
        return 1 if self.on_input else 0

    @property
    def is_zero(self) -> bool:
        """Tell whether no channel is changed."""
        return not bool(self.factor.float().any())

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the layer has another number of channels."""
        if len(shape) > self.axis and self.factor.numel() == shape[self.axis]:
            return None
        side = "input" if self.on_input else "output"
        return f"ia3 scales {self.factor.numel()} {side} channels, but the layer is {tuple(shape)} - is this file for another model?"

    def delta(self, weight: Tensor) -> Tensor:
        """Return W times the factor."""
        return _scaled(weight, precise(self.factor, weight), self.axis)

    def bypass(self, layer: Layer) -> Bypass:
        """Return the scaled output, or the output of the scaled input."""
        return _channel_change(layer, self.factor.flatten(), self.axis)


@dataclass(frozen=True, eq=False, kw_only=True)
class PeftIA3(Algorithm):
    """One factor a channel, 1 for no change."""

    name: ClassVar[str] = "ia3 (peft)"
    reads_output: ClassVar[bool] = True
    keeps_zero: ClassVar[bool] = True

    factor: Tensor = stored("ia3_l")  # (1, in) or (1, in, 1, 1); (out, 1) or (1, out, 1, 1)
    feedforward: bool | None = None  # from adapter_config.json: True scales the input

    @classmethod
    def detects(cls, tensors: Mapping[str, Tensor], config: Config = NO_CONFIG) -> bool:
        """Tell whether the factor is there."""
        return "ia3_l" in tensors

    @property
    def is_zero(self) -> bool:
        """Tell whether no channel is changed."""
        return bool((self.factor.float() == 1).all())

    def axis(self, shape: Sequence[int]) -> int:
        """Return the axis of W that is scaled; a convolution's factor has one shape for both, so its size or the config decides."""
        if len(shape) < 2:
            return 0
        if self.factor.dim() == 2:
            return 1 if self.factor.shape[0] == 1 and self.factor.numel() == shape[1] else 0
        if self.feedforward is not None:
            return 1 if self.feedforward else 0
        return 1 if self.factor.numel() == shape[1] and self.factor.numel() != shape[0] else 0

    def scaled(self, strength: float) -> Algorithm | None:
        """Return this with another distance from 1."""
        return replace(self, factor=1 + strength * (self.factor.double() - 1))

    def on_bias(self, shape: Sequence[int]) -> Algorithm | None:
        """Return this for a scaled output, which has the bias in it; a scaled input leaves the bias alone."""
        return self if self.axis(shape) == 0 else None

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the layer has another number of channels."""
        if shape and self.factor.numel() == shape[self.axis(shape)]:
            return None
        return f"ia3_l scales {self.factor.numel()} channels, but the layer is {tuple(shape)} - is this file for another model?"

    def delta(self, weight: Tensor) -> Tensor:
        """Return W times (factor - 1); of a bias too."""
        return _scaled(weight, precise(self.factor, weight) - 1, self.axis(weight.shape))

    def bypass(self, layer: Layer) -> Bypass:
        """Return the scaled output, or the output of the scaled input."""
        return _channel_change(layer, self.factor.flatten().to(torch.float32) - 1, self.axis(layer.shape))
