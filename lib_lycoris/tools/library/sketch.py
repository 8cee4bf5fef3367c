"""Changes as a few numbers each: products with fixed random vectors, whose cosines are near to those of the changes themselves.

They do not depend on the algorithm, on the names of keys, on the dtype or on how a product is split into factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from ...algorithms.base import flat
from .sampled import Change, SampledNetwork, name_hash

NUMBERS = 16  # of a layer's sketch
SCREEN = 0.3  # by how much a cosine of sketches may be too small


def sketch(name: str, change: Change) -> Tensor:
    """Return the sketch of a change of a weight (float32); of one that reads base weights, that on fixed random ones."""
    left, right = _vectors(name, change.shape[0], prod(change.shape[1:]))
    pair = factors(name, change)
    if isinstance(pair, tuple):
        return ((left @ pair[0]) * (right @ pair[1].T)).sum(1)
    return ((left @ pair) * right).sum(1)


def factors(name: str, change: Change) -> tuple[Tensor, Tensor] | Tensor:
    """Return a change as up (out, r) and down (r, in·k), or as a matrix where it has no factors."""
    algorithm, shape = change.algorithm, change.shape
    pair = None if algorithm.reads_weight else algorithm.low_rank(shape)
    if pair is not None:
        return pair
    weight = _weight(name, shape) if algorithm.reads_weight else torch.zeros(shape)
    return flat(algorithm.delta(weight))


def inner(one: tuple[Tensor, Tensor] | Tensor, other: tuple[Tensor, Tensor] | Tensor) -> float:
    """Return Σ A ⊙ B of two changes of one layer."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return float(((one[0].T @ other[0]).double() * (one[1] @ other[1].T).double()).sum())
    if isinstance(one, tuple):
        return inner(other, one)
    if isinstance(other, tuple):
        return float(((one @ other[1].T).double() * other[0].double()).sum())
    return float((one.double() * other.double()).sum())


def weights_only(changes: Mapping[str, Change]) -> dict[str, Change]:
    """Return the changes of matrices and kernels."""
    return {name: change for name, change in changes.items() if len(change.shape) > 1}


def near_pairs(files: Sequence[SampledNetwork], near: float) -> list[tuple[int, int]]:
    """Return pairs of files whose changes may have a cosine of at least ``near``, or at most -near, by their sketches."""
    names = sorted({name for file in files for name in weights_only(file.changes)})
    place = {name: index for index, name in enumerate(names)}
    table = torch.zeros(len(files), len(names), NUMBERS)
    for row, file in zip(table, files):
        for name, change in weights_only(file.changes).items():
            row[place[name]] = sketch(name, change)
    sizes = table.square().sum(2)
    shared = sizes @ (sizes > 0).float().T  # of each file's energy, that in layers which the other has too
    dots = table.flatten(1) @ table.flatten(1).T
    cosines = dots / (shared * shared.T).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    found = (cosines.abs() >= near - SCREEN).triu(1).nonzero().tolist()
    return [(a, b) for a, b in found]


def compared(one: SampledNetwork, other: SampledNetwork) -> tuple[float, float, int]:
    """Return the cosine of two files' changes, how strong the second is beside the first, and in how many layers that is.

    These are the layers that were looked at of both files; where there is none the cosine is 0.
    """
    dots = first = second = 0.0
    names = weights_only(one.changes).keys() & weights_only(other.changes).keys()
    for name in sorted(names):
        a, b = factors(name, one.changes[name]), factors(name, other.changes[name])
        dots, first, second = dots + inner(a, b), first + inner(a, a), second + inner(b, b)
    if not first or not second:
        return 0.0, 0.0, len(names)
    return dots / (first * second) ** 0.5, dots / first, len(names)


@lru_cache(maxsize=512)
def _vectors(name: str, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(int.from_bytes(name_hash(name)[:6], "big"))
    return torch.randn(NUMBERS, rows, generator=made), torch.randn(NUMBERS, columns, generator=made)


def _weight(name: str, shape: tuple[int, ...]) -> Tensor:
    made = torch.Generator().manual_seed(int.from_bytes(name_hash(name)[2:], "big"))
    return torch.randn(shape, generator=made).div_(prod(shape[1:]) ** 0.5)
