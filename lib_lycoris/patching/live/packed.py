"""Weights that other programs keep quantised on a live model: their shape, their numbers, and the tensors that these follow from.

Known by what they carry, so that no package is imported: bitsandbytes' 4 bits (``quant_state``) and 8 bits (``SCB``), diffusers' GGUF
(``quant_type``), torchao's and quanto's tensors (``dequantize``; quanto's layers before they are frozen: ``qweight``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...records import dataclass

PLAIN = (nn.Parameter, Tensor)
LARGEST_INT8 = 127.0  # bitsandbytes' 8 bits: W = numbers · SCB / 127, one SCB a row


@dataclass(frozen=True)
class Packed:
    """A quantised parameter."""

    shape: tuple[int, ...]
    parts: tuple[Tensor, ...]  # what its numbers follow from
    numbers: Callable[[], Tensor]


def packed(layer: nn.Module, leaf: str) -> Packed | None:
    """Return a layer's parameter where it is quantised; None for one that lies in memory as its own numbers."""
    module: Any = layer
    tensor: Any = module._parameters.get(leaf)
    if tensor is None or (type(tensor) in PLAIN and not _quantises_later(module, leaf)):
        return None
    if (state := _first(tensor, module, "quant_state")) is not None and leaf == "weight":
        unpack = sys.modules[type(state).__module__].dequantize_4bit
        return Packed(tuple(state.shape), (tensor, *_tensors(state)), lambda: unpack(tensor.data, state))
    if tensor.dtype == torch.int8 and (scale := _first(tensor, getattr(module, "state", None), "SCB")) is not None:
        return Packed(tuple(tensor.shape), (tensor, scale), lambda: tensor.detach().float() * (scale.float() / LARGEST_INT8).unsqueeze(1))
    if getattr(tensor, "quant_type", None) is not None and tensor.dtype == torch.uint8:
        unpack = sys.modules[type(tensor).__module__].dequantize_gguf_tensor
        shape = getattr(tensor, "quant_shape", None) or (module.out_features, module.in_features)
        return Packed(tuple(shape), (tensor,), lambda: unpack(tensor).as_subclass(Tensor))
    if _quantises_later(module, leaf):
        return Packed(tuple(tensor.shape), (tensor,), lambda: module.qweight.dequantize())
    if getattr(type(tensor), "dequantize", None) not in (None, Tensor.dequantize):
        return Packed(tuple(tensor.shape), tuple(_inner(tensor)), tensor.dequantize)
    return None


def _first(tensor: Any, owner: Any, name: str) -> Any:
    found = getattr(tensor, name, None)
    return getattr(owner, name, None) if found is None else found


def _quantises_later(module: nn.Module, leaf: str) -> bool:
    """Tell whether a layer of quanto quantises this weight in each forward: until it is frozen."""
    name = "weight_qtype"
    has = name in module.__dict__ or hasattr(type(module), name)  # a module's own getattr is slow where there is none
    return has and leaf == "weight" and getattr(module, name) is not None and type(module._parameters[leaf]) in PLAIN


def _tensors(state: Any) -> list[Tensor]:
    """Return the tensors of a quantisation's state, those of the state of its scales too."""
    values = vars(state)
    inner = values.get("state2")
    return [value for value in values.values() if isinstance(value, Tensor)] + ([] if inner is None else _tensors(inner))


def _inner(tensor: Any) -> list[Tensor]:
    """Return the plain tensors that one of a class of somebody's own is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    return [plain for name in tensor.__tensor_flatten__()[0] for plain in _inner(getattr(tensor, name))]
