"""How large a file will be that is made of many alike pieces: one of each kind is made, the others are as large."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from .networks.compose import Modules
from .networks.network_file import Patch

Work = TypeVar("Work")


def kind_of(patch: Patch) -> Hashable:
    """Return what decides how large anything is that is made of a change."""
    stored = tuple(sorted((suffix, tuple(tensor.shape)) for suffix, tensor in patch.algorithm.to_state_dict().items()))
    return patch.leaf, patch.part, patch.shape, patch.algorithm.label, stored


def numbers_of(modules: Modules) -> int:
    """Return how many numbers the tensors of modules hold."""
    return sum(tensor.numel() for _, tensors in modules for tensor in tensors.values())


def foretold(work: Iterable[Work], kind: Callable[[Work], Hashable], numbers: Callable[[Work], int]) -> int:
    """Return how many numbers all of the work makes, by what one of each kind does."""
    known: dict[Hashable, int] = {}
    total = 0
    for item in work:
        key = kind(item)
        if key not in known:
            known[key] = numbers(item)
        total += known[key]
    return total
