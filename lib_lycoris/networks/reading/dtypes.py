"""The dtypes that tensors of a file can have, in safetensors' spelling: the one table of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ...errors import NetworkFormatError

if TYPE_CHECKING:
    import torch

Default = TypeVar("Default")

# code -> (bytes of a value, torch's name of the dtype whose memory looks like it, torch's name of the one that it is read as)
_TYPES = {
    "F64": (8, "float64", "float64"),
    "F32": (4, "float32", "float32"),
    "F16": (2, "float16", "float16"),
    "BF16": (2, "bfloat16", "bfloat16"),
    "F8_E4M3": (1, "float8_e4m3fn", "float8_e4m3fn"),
    "F8_E5M2": (1, "float8_e5m2", "float8_e5m2"),
    "I64": (8, "int64", "int64"),
    "I32": (4, "int32", "int32"),
    "I16": (2, "int16", "int16"),
    "I8": (1, "int8", "int8"),
    "U64": (8, "int64", "int64"),  # torch before 2.3 has no unsigned types but uint8, and later ones hardly compute in them
    "U32": (4, "int32", "int64"),
    "U16": (2, "int16", "int32"),
    "U8": (1, "uint8", "uint8"),
    "BOOL": (1, "bool", "bool"),
}
BYTES = {code: size for code, (size, _, _) in _TYPES.items()}
CODES = {stored: code for code, (_, stored, _) in _TYPES.items() if code not in ("U64", "U32", "U16")}  # torch's name -> code
CODES.update(uint64="U64", uint32="U32", uint16="U16")
FLOATS = tuple(code for code, (_, stored, _) in _TYPES.items() if "float" in stored)
PRECISIONS = {  # what an option calls a dtype -> code
    "fp32": "F32", "fp16": "F16", "bf16": "BF16", "fp8": "F8_E4M3", "fp8_e4m3fn": "F8_E4M3", "fp8_e5m2": "F8_E5M2", "float": "F32",
}  # fmt: skip
OF_NETWORKS = ("fp32", "fp16", "bf16", "float")  # those that programs read network files in


def precision_dtype(name: str | None, default: Default) -> torch.dtype | Default:
    """Return the dtype that an option names by one of ``PRECISIONS``, the default where it names none."""
    return default if name is None else torch_dtype(PRECISIONS[name])


def torch_dtype(code: str) -> torch.dtype:
    """Return the dtype that values of this code are read as. Raises NetworkFormatError for fp8 on a torch that lacks it."""
    return _named(_TYPES[code][2], code)


def memory_dtype(code: str) -> torch.dtype:
    """Return the dtype to view the stored bytes in; unsigned values are then made whole by :func:`unsigned`."""
    return _named(_TYPES[code][1], code)


def unsigned(values: torch.Tensor, code: str) -> torch.Tensor:
    """Return values that were viewed as signed ones with their true, unsigned value; others as they are."""
    if code in ("U16", "U32"):
        return values.to(torch_dtype(code)) & ((1 << 8 * BYTES[code]) - 1)
    if code == "U64" and bool((values < 0).any()):
        raise NetworkFormatError("it holds unsigned numbers of 2^63 and more, which no network has")
    return values


def _named(name: str, code: str) -> torch.dtype:
    import torch

    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise NetworkFormatError(f"it holds tensors of the type {code}, which need torch 2.1 or newer; this is {torch.__version__}")
    return found
