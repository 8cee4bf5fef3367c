"""Weights that a checkpoint keeps as small numbers with a scale beside them: scaled fp8 and int8, of ComfyUI and of other programs.

Spellings in the wild: ``X.scale_weight`` (ComfyUI's first, beside a tensor ``scaled_fp8``), ``X.weight_scale`` (ComfyUI's later, with
``X.comfy_quant`` or the metadata's ``_quantization_metadata`` naming the format), ``X.weight_scale_inv`` (DeepSeek's, blocks of 128 x 128;
a factor in spite of its name). All mean number x scale. ``X.scale_input``, ``X.input_scale`` are for activations and change no weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from torch import Tensor

from ....errors import NetworkFormatError, kind_of, readable
from ....networks.reading.table import TensorInfo
from ....plain_json import parse_json
from .packing import PackedInfo, Scaled, parts_of

SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
BESIDE = ("weight", "bias", "comfy_quant", "input_scale", "scale_input", *SCALES)
MARK = "scaled_fp8"
NUMBERS = ("F8_E4M3", "F8_E5M2", "I8", "F16", "BF16", "F32")  # old loaders multiply whatever the weight is stored in
FACTORS = ("F32", "F16", "BF16", "F64")
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "int8_blockwise", None)
SAYS_MORE = ("convrot", "hadamard", "rotation", "zero_point")  # of a format: the numbers are not the weight's even when they are scaled
LONGEST_FORMAT = 4096  # bytes of a layer's comfy_quant
LARGEST_SCALE = 1 << 24  # numbers of a scale
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")
_OTHERS = {".quant_state.": "bitsandbytes' 4 bits", ".absmax": "bitsandbytes' 4 bits", ".SCB": "bitsandbytes' 8 bits", "_data": "quanto"}


def packed(
    entries: Mapping[str, TensorInfo], metadata: Mapping[str, str], read: Callable[[str], Tensor], name: str
) -> dict[str, PackedInfo]:
    """Return the tensors of a file that are to be multiplied by a scale. Raises NetworkFormatError where the way is not read."""
    formats = _formats(metadata)
    found = {}
    for key, entry in entries.items():
        layer, _, leaf = key.rpartition(".")
        if leaf != "weight":
            continue
        scale = next((f"{layer}.{one}" for one in SCALES if f"{layer}.{one}" in entries), None)
        if scale is None:
            _refuse_integers(entries, key, entry, name)
            continue
        said = _format(entries, formats, layer, read, name)
        if said.get("format") not in FORMATS or any(said.get(one) for one in SAYS_MORE):
            shown = readable(", ".join(str(one) for one in [said.get("format"), *(x for x in SAYS_MORE if said.get(x))]), 60)
            raise NetworkFormatError(f"{name} keeps {readable(layer)} in the format {shown}, which is not read; {_INSTEAD}")
        found[key] = _scaled(entries, key, entry, scale, read, name)
    if found:
        _refuse_more(entries, found, name)
    return found


_INSTEAD = "use its fp16, bf16 or plain fp8 version"


def is_scale(key: str) -> bool:
    """Tell whether a tensor says how others are scaled."""
    return key.rpartition(".")[2] in (*SCALES, "input_scale", "scale_input", "comfy_quant", MARK)


def _formats(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        layers = parse_json(metadata.get("_quantization_metadata", "{}"))["layers"]
    except (ValueError, KeyError, TypeError):
        return {}
    return layers if isinstance(layers, dict) else {}


def _format(
    entries: Mapping[str, TensorInfo], formats: Mapping[str, Any], layer: str, read: Callable[[str], Tensor], name: str
) -> Mapping[str, Any]:
    """Return what a file says of how a layer is kept; nothing where it says nothing."""
    key = f"{layer}.comfy_quant"
    said = formats.get(layer, {})
    if key in entries:
        try:
            if entries[key].dtype != "U8" or entries[key].size > LONGEST_FORMAT:
                raise ValueError("it is no text")
            said = parse_json(bytes(read(key).flatten().tolist()))
        except ValueError as error:
            raise NetworkFormatError(f"{name}: {readable(key)} cannot be understood ({readable(error, 60)}); {_INSTEAD}") from error
    if not isinstance(said, dict):
        raise NetworkFormatError(f"{name}: {readable(key)} is {kind_of(said)}, where a table is expected; {_INSTEAD}")
    return said


def _scaled(
    entries: Mapping[str, TensorInfo], key: str, entry: TensorInfo, scale: str, read: Callable[[str], Tensor], name: str
) -> PackedInfo:
    of = entries[scale]
    if entry.dtype not in NUMBERS or of.dtype not in FACTORS or prod(of.shape) > LARGEST_SCALE:
        raise NetworkFormatError(
            f"{name} keeps {readable(key)} as {entry.dtype} with {readable(scale)} of the type {of.dtype}, which is not read; {_INSTEAD}"
        )
    try:
        parts_of(of.shape, entry.shape)
    except ValueError as error:
        raise NetworkFormatError(f"{name}: {readable(scale)}: {error}; {_INSTEAD}") from error
    values = read(scale).float()
    if not bool(values.isfinite().all()):
        raise NetworkFormatError(f"{name} is broken: {readable(scale)} holds NaN or infinity; use another copy of it")
    return PackedInfo(entry.dtype, entry.shape, entry.begin, packing=Scaled(entry.dtype, values, entry.shape))


def _refuse_more(entries: Mapping[str, TensorInfo], found: Mapping[str, PackedInfo], name: str) -> None:
    """Raise where a scaled weight has more beside it than a scale: a second scale, a zero point, a rotation."""
    for key in entries:
        layer, _, leaf = key.rpartition(".")
        if leaf not in BESIDE and "weight" in leaf and f"{layer}.weight" in found:
            raise NetworkFormatError(
                f"{name} keeps {readable(layer)} with {readable(leaf)} beside its scale, which is not read; {_INSTEAD}"
            )


def _refuse_integers(entries: Mapping[str, TensorInfo], key: str, entry: TensorInfo, name: str) -> None:
    """Raise for a weight of whole numbers without a scale: it is packed in a way that is not read."""
    if entry.dtype not in INTEGERS or len(entry.shape) < 2:
        return
    layer = key.removesuffix("weight")
    how = next((what for part, what in _OTHERS.items() if any(k.startswith(layer) and part in k[len(layer) :] for k in entries)), None)
    kind = how or f"whole numbers of the type {entry.dtype}"
    raise NetworkFormatError(f"{name} keeps {readable(key)} as {kind}, which is not read; {_INSTEAD}")
