"""A layer as a change sees it: how it maps an input, and where its channels are."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...records import dataclass

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

    def to_compute(self, tensor: Tensor) -> Tensor:
        """Return a tensor on the layer's device in the layer's compute dtype."""
        return tensor.to(device=self.device, dtype=self.dtype).contiguous()


def unfolded(convolution: Convolution, x: Tensor, kernel: torch.Size) -> Tensor:
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
