"""y' = y + s · Δy: the activation side - how a prepared change acts on a layer's input x and on its output y = W·x.

``x`` and ``y`` keep the layer's own layout: channels last for linear layers, channels second for convolutions. ``y`` is
always without the bias: a rotation of W leaves the bias alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

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


@dataclass(frozen=True)
class Cost:
    """What a change of a layer costs, from which the cheaper way to apply it is told: see patching.cost."""

    products: float  # multiply-adds for every position of the activations
    moved: float  # elements read and written for every position
    rebuild_products: float  # multiply-adds for one changed weight
    rebuild_moved: float  # elements read and written for one changed weight


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
        total.view(-1, total.shape[-1]).addmm_(inner.reshape(-1, inner.shape[-1]), matrix.T, alpha=strength)
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
    return LowRank(layer, layer.to_compute(down), layer.to_compute(up), None if core is None else layer.to_compute(core), scale)


def dense(layer: Layer, delta: Tensor) -> Bypass:
    """Prepare Δy as a second full-size product: for what is stored at full size anyway."""
    weight = layer.to_compute(delta.reshape(layer.shape))
    return Bypass(lambda x, y: layer.map(x, weight))


def row_blocks(tensor: Tensor, fits: int = 1 << 19) -> Iterator[slice]:
    """Give the rows of a matrix in blocks of so many bytes, which stay in a CPU's cache; on other devices all rows at once."""
    rows = tensor.shape[0]
    size = rows if tensor.device.type != "cpu" else max(1, fits * rows // (tensor.numel() * tensor.element_size() or 1))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def add_product(out: Tensor, base: Tensor, up: Tensor, down: Tensor, strength: float) -> None:
    """Write base + s · up · down into out (out, in, *k), which may be base itself; up: (out, r), down: (r, in·k)."""
    target, source = out.view(out.shape[0], -1), base.reshape(out.shape[0], -1)
    for rows in row_blocks(target):
        part = target[rows]
        if out is not base:
            part.copy_(source[rows])
        part.addmm_(up[rows], down, alpha=strength)


def tucker(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Return Σ_pq core[p, q, *k] · up[o, p] · down[q, i] as (out, in, *k); core: (p, q, *k), up: (out, p), down: (q, in)."""
    return torch.einsum("pq...,op,qi->oi...", core, up, down).contiguous()


class BlockRows(Bypass):
    """Δy = blockdiag(blocks) · y."""

    def __init__(self, layer: Layer, blocks: Tensor) -> None:
        self.layer = layer
        self.blocks = blocks  # (n, b, b), n·b = out

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the turned output minus the output."""
        count, size = self.blocks.shape[:2]
        if self.layer.convolution is not None:
            grouped = y.reshape(y.shape[0], count, size, -1)
            return torch.matmul(self.blocks, grouped).reshape(y.shape)
        rows = y.reshape(-1, count, size).transpose(0, 1)  # (n, positions, b)
        return torch.bmm(rows, self.blocks.transpose(1, 2)).transpose(0, 1).reshape(y.shape)

    def add_to(self, total: Tensor, x: Tensor, y: Tensor, bias: Tensor | None, strength: float) -> None:
        """Add s · Δy: on a CPU a strip of channels at a time, whose intermediate stays in the cache."""
        strips = self.layer.convolution is None and y.device.type == "cpu" and y.dtype == total.dtype == self.blocks.dtype
        if not (strips and total.is_contiguous() and y.is_contiguous()):
            super().add_to(total, x, y, bias, strength)
            return
        blocks = _joined(self.blocks)
        moved = None if bias is None else torch.matmul(blocks, bias.reshape(len(blocks), -1, 1)).squeeze(-1)  # what the bias must not add
        source, target = y.view(-1, y.shape[-1]), total.view(-1, y.shape[-1])
        width = blocks.shape[-1]
        for index, block in enumerate(blocks):
            strip = source.narrow(1, index * width, width)
            delta = strip @ block.T if moved is None else torch.addmm(moved[index], strip, block.T, beta=-1)
            target.narrow(1, index * width, width).add_(delta, alpha=strength)


def _joined(blocks: Tensor, wanted: int = 64) -> Tensor:
    """Return a block-diagonal matrix in fewer, larger blocks: products of matrices as narrow as 8 are slow."""
    count, size = blocks.shape[:2]
    group = max((g for g in range(1, count + 1) if count % g == 0 and g * size <= wanted), default=1)
    if group == 1:
        return blocks
    joined = blocks.new_zeros(count // group, group, size, group, size)
    joined.diagonal(dim1=1, dim2=3).copy_(blocks.view(-1, group, size, size).permute(0, 2, 3, 1))
    return joined.view(-1, group * size, group * size)


def block_rows(layer: Layer, matrix: Tensor) -> Bypass:
    """Prepare Δy = blockdiag(matrix) · y; matrix: (n, b, b), n·b = out."""
    return BlockRows(layer, layer.to_compute(matrix))


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
