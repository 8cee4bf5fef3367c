"""A stored tensor as its declaration says that it must be, or a sentence that names its suffix."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import NetworkFormatError

Ways = tuple[tuple[frozenset[str], ...], ...]  # for each thing that may be stored in several ways: the key suffixes of each of them


def one_number(value: Tensor, suffix: str) -> float:
    """Return the one number of a tensor. Raises NetworkFormatError for one with more."""
    if value.numel() != 1:
        raise NetworkFormatError(f"{suffix} has the shape {tuple(value.shape)}, but one number is expected")
    return float(value.reshape(()).float() if value.is_floating_point() else value.reshape(()))


def with_axes(tensor: Tensor, declared: Mapping[str, Any]) -> Tensor:
    """Return a tensor that has as many axes as its declaration says, and values. Raises NetworkFormatError naming its suffix."""
    fewest, most = declared["axes"]
    if fewest <= tensor.dim() <= most and tensor.numel():
        return tensor
    wanted = f"{fewest} axes" if fewest == most else f"{fewest} to {most} axes"
    raise NetworkFormatError(f"{declared['suffix']} has the shape {tuple(tensor.shape)}, but {wanted}, none of them empty, are expected")


def is_narrower(value: Any, dtype: torch.dtype) -> bool:
    """Tell whether a value is a tensor of numbers that all fit into a wider dtype."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.promote_types(value.dtype, dtype) == dtype


def surplus(ways: Ways, given: Collection[str]) -> set[str]:
    """Return the key suffixes of all ways but the one that a module with the given ones is read by: the fullest that is whole."""
    found: set[str] = set()
    for several in ways:
        chosen = max((way for way in several if way <= set(given)), key=len, default=frozenset[str]())
        found |= frozenset[str]().union(*several) - chosen
    return found
