"""Changes as a few numbers each: products with fixed random vectors, whose cosines are near to those of the changes themselves.

They do not depend on the algorithm, on the names of keys, on the dtype or on how a product is split into factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import copysign, prod
from typing import NamedTuple

import torch
from torch import Tensor

from ...algorithms.base import flat
from .sampled import Change, SampledNetwork, name_hash

NUMBERS = 16  # of a layer's sketch
TOGETHER = 16  # changes of one weight that are multiplied with the vectors at once
SCREEN = 0.3  # by how much a cosine of sketches may be too small


class Weight(NamedTuple):
    """What can be compared: families have layers of one name in different sizes."""

    name: str
    rows: int
    columns: int


def weights(file: SampledNetwork) -> set[Weight]:
    """Return the matrices and kernels that a file changes."""
    found = {name: change.shape for name, change in file.changes.items() if len(change.shape) > 1}
    return {Weight(name, shape[0], prod(shape[1:])) for name, shape in found.items()}


def sketches(weight: Weight, changes: Sequence[Change]) -> Tensor:
    """Return the sketches (changes, NUMBERS) of changes of one weight (float32); of those that read it, on a fixed random one."""
    left, right = _vectors(weight)
    found = torch.zeros(len(changes), NUMBERS)
    pairs = {}
    for index, change in enumerate(changes):
        delta = factors(weight.name, change)
        if isinstance(delta, tuple):
            pairs[index] = delta
        else:
            found[index] = ((left @ delta) * right).sum(1)
    if pairs:
        product = (left @ torch.cat([up for up, _ in pairs.values()], 1)) * (torch.cat([down for _, down in pairs.values()]) @ right.T).T
        owners = torch.tensor([index for index, (_, down) in pairs.items() for _ in range(len(down))])
        found.index_add_(0, owners, product.T)
    return found


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


def near_pairs(files: Sequence[SampledNetwork], near: float) -> list[tuple[int, int]]:
    """Return pairs of files whose changes may have a cosine of at least ``near``, or at most -near, by their sketches."""
    owners: dict[Weight, list[int]] = {}
    for row, file in enumerate(files):
        for weight in weights(file):
            owners.setdefault(weight, []).append(row)
    table = torch.zeros(len(files), len(owners), NUMBERS)
    for column, (weight, rows) in enumerate(sorted(owners.items())):
        for start in range(0, len(rows), TOGETHER):
            some = rows[start : start + TOGETHER]
            table[some, column] = sketches(weight, [files[row].changes[weight.name] for row in some])
    sizes = table.square().sum(2)
    shared = sizes @ (sizes > 0).float().T  # of each file's energy, that in layers which the other has too
    dots = table.flatten(1) @ table.flatten(1).T
    cosines = dots / (shared * shared.T).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    found = (cosines.abs() >= near - SCREEN).triu(1).nonzero().tolist()
    return [(a, b) for a, b in found]


def compared(one: SampledNetwork, other: SampledNetwork) -> tuple[float, float, int]:
    """Return the cosine of two files' changes, the ratio of the second's norm to the first's, and in how many layers that is.

    The ratio is negative where they act against each other. The layers are those that were looked at of both files; where there is none
    the cosine is 0.
    """
    dots = first = second = 0.0
    shared = weights(one) & weights(other)
    for name, _, _ in sorted(shared):
        a, b = factors(name, one.changes[name]), factors(name, other.changes[name])
        dots, first, second = dots + inner(a, b), first + inner(a, a), second + inner(b, b)
    if not first or not second:
        return 0.0, 0.0, len(shared)
    return dots / (first * second) ** 0.5, copysign((second / first) ** 0.5, dots), len(shared)


@lru_cache(maxsize=512)
def _vectors(weight: Weight) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(int.from_bytes(name_hash(weight.name)[:6], "big"))
    return torch.randn(NUMBERS, weight.rows, generator=made), torch.randn(NUMBERS, weight.columns, generator=made)


def _weight(name: str, shape: tuple[int, ...]) -> Tensor:
    made = torch.Generator().manual_seed(int.from_bytes(name_hash(name)[2:], "big"))
    return torch.randn(shape, generator=made).div_(prod(shape[1:]) ** 0.5)
