"""y' = y + s · Δy: the activation side - how a prepared change acts on a layer's input x and on its output y = W·x.

``x`` and ``y`` keep the layer's own layout: channels last for linear layers, channels second for convolutions. ``y`` is
always without the bias: a rotation of W leaves the bias alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Change = Callable[[Tensor, Tensor], Tensor]
CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


@dataclass(frozen=True)
class Convolution:
    """How a convolution walks over its input."""

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int = 1
    padding_mode: str = "zeros"
    pad: tuple[int, ...] = ()  # F.pad's order, for the modes other than zeros

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve without a bias; weight: (out, in/groups, *k)."""
        padding: tuple[int, ...] | str = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self.pad, mode=self.padding_mode), (0,) * len(self.stride)
        return CONVOLUTIONS[weight.dim()](x, weight, None, self.stride, padding, self.dilation, self.groups)


@dataclass(frozen=True, eq=False)
class Layer:
    """What a change may know of the layer it acts on.

    The base weight is asked for each time, never kept: programs move it between devices, and a kept one would stay there.
    """

    source: Callable[[], Tensor]  # the base weight, or the rows of it that are changed
    shape: torch.Size
    device: torch.device
    dtype: torch.dtype = torch.float32  # what the layer computes in
    convolution: Convolution | None = None  # None: a linear layer

    @property
    def weight(self) -> Tensor:
        """The base weight as it is now, (out, in, *k)."""
        return self.source()

    def map(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return W·x for a weight of the layer's own shape."""
        return F.linear(x, weight) if self.convolution is None else self.convolution(x, weight)

    def base(self, x: Tensor) -> Tensor:
        """Return W·x for the layer's own weight."""
        return self.map(x, self.weight.to(x.dtype))

    def pointwise(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Return a matrix (rows, channels) applied to the channels of every position."""
        if self.convolution is None:
            return F.linear(x, matrix)
        return CONVOLUTIONS[len(self.shape)](x, self.on_channels(matrix))

    def on_channels(self, tensor: Tensor) -> Tensor:
        """Return a vector or matrix over channels, last axis channels, with the kernel's axes added for a convolution."""
        return tensor if self.convolution is None else tensor.reshape(*tensor.shape, *(1,) * (len(self.shape) - 2))

    def ready(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the layer's device in the layer's compute dtype."""
        return tensor.to(device=self.device, dtype=self.dtype).contiguous()


@dataclass(frozen=True, eq=False)
class LowRank:
    """Δy = up · (core ∗) (down ∗ x): the one change that several networks on a layer can share."""

    layer: Layer
    down: Tensor  # (r, in, *k), or (r, in) with a core and on linear layers
    up: Tensor  # (out, r')
    core: Tensor | None = None  # (r', r, *k)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ΔW·x."""
        if self.core is not None:
            inner = self.layer.map(self.layer.pointwise(x, self.down), self.core)
        else:
            inner = self.layer.map(x, self.down)
        return self.layer.pointwise(inner, self.up)


def low_rank(layer: Layer, up: Tensor, down: Tensor, core: Tensor | None = None) -> Change:
    """Prepare Δy from factors in full precision; up: (out, r'), down: (r, in·k) or (r, in) with core (r', r, *k)."""
    grouped = layer.convolution is not None and layer.convolution.groups != 1
    if grouped:  # a grouped convolution has no low-rank form that spans its groups
        return dense(layer, (up @ down if core is None else tucker(core, up, down)).reshape(layer.shape))
    if core is None:
        down = down.reshape(down.shape[0], *layer.shape[1:])
    return LowRank(layer, layer.ready(down), layer.ready(up), None if core is None else layer.ready(core))


def dense(layer: Layer, delta: Tensor) -> Change:
    """Prepare Δy as a second full-size product: for what is stored at full size anyway."""
    weight = layer.ready(delta.reshape(layer.shape))
    return lambda x, y: layer.map(x, weight)


def tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Return Σ_pq core[p, q, *k] · up[o, p] · down[q, i] as (out, in, *k); core: (p, q, *k), up: (out, p), down: (q, in)."""
    return torch.einsum("pq...,op,qi->oi...", core, up, down).contiguous()


def block_rows(layer: Layer, matrix: Tensor) -> Change:
    """Prepare Δy = blockdiag(matrix) · y; matrix: (n, b, b), n·b = out."""
    blocks = layer.ready(matrix)
    count, size = blocks.shape[0], blocks.shape[1]

    def act(x: Tensor, y: Tensor) -> Tensor:
        if layer.convolution is None:
            return torch.einsum("nij,...nj->...ni", blocks, y.unflatten(-1, (count, size))).flatten(-2)
        grouped = y.reshape(y.shape[0], count, size, -1)
        return torch.matmul(blocks, grouped).reshape(y.shape)

    return act


def on_inputs(layer: Layer, turn: Callable[[Tensor], Tensor], rows: Tensor | None = None) -> Change:
    """Prepare Δy = rows ⊙ W·turn(x) - y; turn acts on the last axis, of size in·k; rows: (out,)."""
    gain = None if rows is None else layer.on_channels(layer.ready(rows))

    def act(x: Tensor, y: Tensor) -> Tensor:
        turned = _turned_output(layer, turn, x, y)
        return (turned if gain is None else gain * turned) - y

    return act


def _turned_output(layer: Layer, turn: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    if layer.convolution is None:
        return layer.base(turn(x))
    weight = layer.weight.to(x.dtype)
    patches = _patches(layer.convolution, x, weight.shape[2:])
    return (turn(patches) @ weight.reshape(weight.shape[0], -1).T).transpose(1, 2).reshape(y.shape)


def _patches(convolution: Convolution, x: Tensor, kernel: torch.Size) -> Tensor:
    """Return what each output position sees, as (batch, positions, in·k)."""
    padding: tuple[int, ...] = (0, 0)
    if convolution.padding_mode != "zeros":
        x = F.pad(x, convolution.pad, mode=convolution.padding_mode)
    elif isinstance(convolution.padding, str):
        same = convolution.padding == "same"
        edges = [size * (step - 1) if same else 0 for size, step in zip(convolution.dilation, kernel)]
        x = F.pad(x, (edges[1] // 2, edges[1] - edges[1] // 2, edges[0] // 2, edges[0] - edges[0] // 2))
    else:
        padding = convolution.padding
    return F.unfold(x, tuple(kernel), convolution.dilation, padding, convolution.stride).transpose(1, 2)
