"""What many alike pieces come to, such as a file's size: one of each kind is made, the others are as large."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from math import prod
from typing import TypeVar

from ..jobs.cost import Piece
from .networks.compose import Modules, ranks_of
from .networks.naming import Named
from .networks.network_file import Patch

Work = TypeVar("Work")
Found = TypeVar("Found")


def kind_of(patch: Patch, names: Sequence[Named] = ()) -> Hashable:
    """Return what decides how large anything is that is made of a change; names: the modules that a layer becomes."""
    tensors = patch.algorithm.to_state_dict()
    stored = tuple(sorted((suffix, tuple(tensor.shape)) for suffix, tensor in tensors.items()))
    up = tensors.get("lora_up.weight") if len(names) > 1 and not patch.part else None
    ranks = () if up is None else tuple(int(its.sum()) for its in ranks_of(names, up))
    return patch.leaf, patch.part, patch.shape, patch.algorithm.label, stored, ranks


def numbers_of(modules: Modules) -> int:
    """Return how many numbers the tensors of modules hold."""
    return sum(tensor.numel() for _, tensors in modules for tensor in tensors.values())


def foretold(work: Iterable[Work], kind: Callable[[Work], Hashable], look: Callable[[Work], Found]) -> list[Found]:
    """Return what is found of each piece of work, by looking at one of each kind."""
    known: dict[Hashable, Found] = {}
    found = []
    for item in work:
        key = kind(item)
        if key not in known:
            known[key] = look(item)
        found.append(known[key])
    return found


def piece_of(patch: Patch, whole: bool = False) -> Piece:
    """Return the work on a change by its factors; on one that has none, where it is decomposed ``whole``, by its matrix."""
    if patch.leaf != "weight" or len(patch.shape) < 2:
        return Piece()
    pair = None if patch.algorithm.direction.reads_weight else patch.algorithm.direction.low_rank(patch.shape)
    if pair is not None:
        return Piece(pair[0].shape[0] + pair[1].shape[1], pair[0].shape[1])
    return Piece(whole=prod(patch.shape)) if whole else Piece()
