"""Which tensors and numbers of a module can mean anything: what is empty, has no axes or is larger than any weight is said by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from math import inf, prod
from sys import float_info
from typing import Any

import torch
from torch import Tensor

from ..errors import NetworkFormatError, readable
from ..models.stored import layer_shape

LARGEST_FACTOR = 1e9  # a product of several such still is a number in float32; trained factors are below 100
LARGEST_NUMBER = 1e12  # alpha and scales: LyCORIS writes 1e10 where alpha is not used
LARGEST_LAYER = 1 << 30  # numbers of a weight, three times those of the largest of any model; a few factors can tell of any size
PIECE = 1 << 17  # values that are looked at together
# One number, which files keep with or without an axis of its own.
NUMBERS = frozenset({"alpha", "scale", "scalar", "on_input", "oft_R.scaled_oft", "delora_lambda"})


WHOLE_KRONECKER = frozenset({"lokr_w1", "lokr_w2"})

# Axes of tensors that are not weights and not factors of one, which may be flattened or not.
AXES = {
    "oft_blocks": (3, 4), "oft_diag": (3,), "oft_r": (3,), "oft_R.weight": (2,), "boft_R": (4,), "bias_indices": (2,), "bias_values": (1,),
}  # fmt: skip
SQUARE = frozenset({"oft_blocks", "oft_diag", "oft_r", "boft_R"})  # blocks that turn something


def alpha_counts(suffixes: Collection[str]) -> bool:
    """Tell whether a module's alpha scales it; that of a LoKr of two whole factors does not.

    LyCORIS writes the dim there, which its guides set to 100000: infinity in a file of float16.
    """
    return not WHOLE_KRONECKER.issubset(suffixes)


def check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Raise NetworkFormatError naming a tensor, suffix -> tensor of a module, that is empty or has no axis where it needs one.

    So does a module whose tensors make a weight that no model has: what is made of it would take memory and time without end.
    """
    for suffix, tensor in tensors.items():
        values, axes = tensor.numel(), tensor.dim()
        if values == 0:
            raise NetworkFormatError(f"{suffix} is empty: its shape {tuple(tensor.shape)} holds no values")
        if axes == 0 and suffix not in NUMBERS:
            raise NetworkFormatError(f"{suffix} is a single number without a shape, where a tensor is expected")
        if suffix in AXES and axes not in AXES[suffix]:
            raise NetworkFormatError(f"{suffix} has the shape {tuple(tensor.shape)}, where {AXES[suffix][0]} axes are expected")
        if suffix in SQUARE and tensor.shape[-1] != tensor.shape[-2]:
            raise NetworkFormatError(f"{suffix} has the shape {tuple(tensor.shape)}, but its blocks have to be square")
        if values == 1 and not abs(number := single(tensor, suffix)) <= _largest(suffix, tensors):
            what = "strength of a network" if suffix in NUMBERS else "weight"
            raise NetworkFormatError(f"{suffix} is {number:.3g}, which is no {what}")
    shape = layer_shape({suffix: tuple(tensor.shape) for suffix, tensor in tensors.items()})
    if shape and prod(shape) > LARGEST_LAYER:
        raise NetworkFormatError(f"its tensors make a layer of {shape}, which is larger than any model's")


def _largest(suffix: str, beside: Collection[str]) -> float:
    if suffix == "alpha" and not alpha_counts(beside):
        return inf
    return LARGEST_NUMBER if suffix in NUMBERS else LARGEST_FACTOR


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise NetworkFormatError naming what a config says that is no number of a usual size."""
    for name, value in settings.items():
        if isinstance(value, (int, float)) and not abs(value) <= LARGEST_NUMBER:  # NaN is not
            raise NetworkFormatError(f"{name} from the file's settings is {readable(value, 30)}, which is no usable number")


def single(tensor: Tensor, suffix: str) -> float:
    """Return a tensor's one number. Raises NetworkFormatError for one with more."""
    if tensor.numel() != 1:
        raise NetworkFormatError(f"{suffix} has the shape {tuple(tensor.shape)}, but one number is expected")
    return float(tensor.double())


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors hold the same numbers in the same places; dtypes and axes of length 1 do not matter."""
    one, other = one.squeeze(), other.squeeze()
    return one.shape == other.shape and torch.equal(one.double(), other.double())


def sound(values: Tensor, largest: float = LARGEST_FACTOR) -> bool:
    """Tell whether all values are numbers of a usual size: no NaN, no infinity; in pieces that stay in the processor's cache."""
    if not values.is_floating_point():
        return values.dtype in (torch.bool, torch.uint8, torch.int8, torch.int16) or _within(values.flatten(), largest)
    return all(_within(part.to(arithmetic(part.dtype)), largest) for part in values.flatten().split(PIECE))


def is_broken(tensor: Tensor, counts: bool = True) -> bool:
    """Tell whether a tensor of a file holds NaN, infinity or what no weight is; single numbers have limits of their own.

    counts: False for an alpha that scales nothing.
    """
    single = float_info.max if counts else inf
    return not sound(tensor, single if tensor.numel() == 1 else LARGEST_FACTOR)


def _within(values: Tensor, largest: float) -> bool:
    if not values.numel():
        return True
    low, high = torch.aminmax(values.float() if values.dtype == torch.float16 and not _compares_half() else values)
    return float(low) >= -largest and float(high) <= largest  # a NaN is neither


@cache
def _compares_half() -> bool:
    """Tell whether torch has this for float16 on the CPU: since 2.2."""
    try:
        torch.aminmax(torch.zeros(1, dtype=torch.float16))
    except RuntimeError:
        return False
    return True


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype, or one that holds its values where torch does not compute in it: fp8."""
    return torch.float16 if dtype.is_floating_point and torch.finfo(dtype).bits == 8 else dtype
