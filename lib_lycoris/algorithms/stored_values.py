"""The declaration of a stored tensor, and the tensor as that says that it must be, or a sentence that names its suffix."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from typing import Any

import torch
from torch import Tensor

from ..errors import NetworkFormatError

Ways = tuple[tuple[frozenset[str], ...], ...]  # for each thing that may be stored in several ways: the key suffixes of each of them


def stored(
    suffix: str, *, optional: bool = False, scalar: bool = False, axes: tuple[int, int] = (1, 5), shared: bool = False, whole: bool = False
) -> Any:  # fmt: skip
    """Declare a field that a file keeps as ``<module>.<suffix>``; detection, reading and writing all come from it.

    axes: the fewest and the most that the tensor may have; shared: one tensor of the file that all its modules have in common; whole: it
    holds whole numbers, as places and switches are.
    """
    metadata = {"suffix": suffix, "optional": optional, "scalar": scalar, "axes": axes, "shared": shared, "whole": whole}
    return field(default=None, metadata=metadata) if optional else field(metadata=metadata)


def one_number(value: Tensor, suffix: str) -> float:
    """Return the one number of a tensor. Raises NetworkFormatError for one with more."""
    if value.numel() != 1:
        raise NetworkFormatError(f"{suffix} has the shape {tuple(value.shape)}, but one number is expected")
    return float(value.float() if value.is_floating_point() else value)


def with_axes(tensor: Tensor, declared: Mapping[str, Any]) -> Tensor:
    """Return a tensor with the axes and the kind of values that its declaration says. Raises NetworkFormatError naming its suffix."""
    suffix, whole = declared["suffix"], not tensor.is_floating_point()
    if whole != declared["whole"]:
        kind = str(tensor.dtype).removeprefix("torch.")
        if whole:
            raise NetworkFormatError(f"{suffix} holds whole numbers ({kind}) without the scale that would tell what they stand for")
        raise NetworkFormatError(f"{suffix} holds {kind}, where whole numbers are expected")
    fewest, most = declared["axes"]
    if fewest <= tensor.dim() <= most and tensor.numel():
        return tensor
    wanted = f"{fewest} axes" if fewest == most else f"{fewest} to {most} axes"
    raise NetworkFormatError(f"{suffix} has the shape {tuple(tensor.shape)}, but {wanted}, none of them empty, are expected")


def is_narrower(value: Any, dtype: torch.dtype) -> bool:
    """Tell whether a value is a tensor of numbers that all fit into a wider dtype."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
        return False
    if value.element_size() == 1:  # torch promotes fp8 to nothing; the numbers of either kind fit into half precision of either kind
        return dtype.is_floating_point and torch.finfo(dtype).bits > 8
    return torch.promote_types(value.dtype, dtype) == dtype


def surplus(ways: Ways, given: Collection[str]) -> set[str]:
    """Return the key suffixes of all ways but the one that a module with the given ones is read by: the fullest that is whole."""
    found: set[str] = set()
    for several in ways:
        chosen = max((way for way in several if way <= set(given)), key=len, default=frozenset[str]())
        found |= frozenset[str]().union(*several) - chosen
    return found


def other_layer(tensors: Mapping[str, Tensor], shape: Sequence[int]) -> str:
    """Say that stored tensors, by suffix, are for a layer of another shape."""
    got = ", ".join(f"{suffix} {tuple(tensor.shape)}" for suffix, tensor in tensors.items())
    return f"{got} do not fit a layer {tuple(shape)} - is this file for another model?"
