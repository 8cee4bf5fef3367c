"""Δy = blockdiag(blocks) · y: a change of the output alone."""

from __future__ import annotations

import torch
from torch import Tensor

from .bypass import Bypass
from .geometry import Layer


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
