"""y' = y + s · Δy: a prepared change as a function of a layer's input x and of its output y = W·x.

``x`` and ``y`` keep the layer's own layout: channels last for linear layers, channels second for convolutions. ``y`` is
always without the bias: a rotation of W leaves the bias alone.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .geometry import Layer, unfolded


class Bypass:
    """Δy of a prepared algorithm: a function of a layer's input x and of its output y = W·x."""

    def __init__(self, act: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._act = act

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return Δy; y: without the bias."""
        return self._act(x, y)

    def add_to(self, total: Tensor, x: Tensor, y: Tensor, bias: Tensor | None, strength: float) -> None:
        """Add s · Δy to total, which may be y itself; y: with this bias, already shaped to be added to it."""
        delta = self(x, y if bias is None else y - bias)
        total.add_(delta.to(total.dtype), alpha=strength)


def dense(layer: Layer, delta: Tensor) -> Bypass:
    """Prepare Δy as a second full-size product: for what is stored at full size anyway."""
    weight = layer.to_compute(delta.reshape(layer.shape))
    return Bypass(lambda x, y: layer.map(x, weight))


def on_inputs(layer: Layer, turn: Callable[[Tensor], Tensor], rows: Tensor | None = None) -> Bypass:
    """Prepare Δy = rows ⊙ W·turn(x) - y; turn acts on the last axis, of size in·k; rows: (out,)."""
    gain = None if rows is None else layer.on_channels(layer.to_compute(rows))

    def act(x: Tensor, y: Tensor) -> Tensor:
        turned = _turned_output(layer, turn, x, y)
        return (turned if gain is None else gain * turned) - y

    return Bypass(act)


def _turned_output(layer: Layer, turn: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    if layer.convolution is None:
        return layer.base(turn(x))
    weight = layer.weight.to(x.dtype)
    patches = unfolded(layer.convolution, x, weight.shape[2:])
    return (turn(patches) @ weight.reshape(weight.shape[0], -1).T).transpose(1, 2).reshape(y.shape)
