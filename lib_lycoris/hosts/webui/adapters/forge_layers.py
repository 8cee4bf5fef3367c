"""Layers of Forge and of what came of it: they cast, dequantise and patch their weights in each forward, with functions of the host's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....patching.live.layer_access import Inner, LayerAccess


class ForgeLayers(LayerAccess):
    """Reads weights as the host computes with them - dequantised, scaled, its own networks in them - and takes all that off for ours."""

    def kind(self, module: nn.Module) -> type[nn.Module] | None:
        """Return which of torch's layers a module computes as: some linear layers of the host are no subclasses of torch's."""
        return super().kind(module) or (nn.Linear if any(kind.__name__ == "Linear" for kind in type(module).__mro__) else None)

    def shape(self, module: nn.Module, leaf: str) -> tuple[int, ...] | None:
        """Return a parameter's shape, a packed one's as it is unpacked."""
        stored = self.stored(module, leaf)
        if stored is None:
            return None
        state, params = getattr(stored, "quant_state", None), getattr(stored, "_params", None)
        unpacked = getattr(state, "shape", None) or getattr(params, "orig_shape", None)
        return tuple(int(size) for size in (unpacked if unpacked is not None else stored.shape))  # Forge's GGUF shapes are numpy's floats

    def is_packed(self, module: nn.Module, leaf: str) -> bool:
        """Tell whether a parameter lies in memory as other numbers than the layer computes with."""
        return not is_plain(self.stored(module, leaf))

    def can_hold(self, module: nn.Module, leaf: str) -> bool:
        """Tell whether a layer can be called with a parameter of this name: Forge's linear layers hold no place for a bias they lack."""
        return super().can_hold(module, leaf) or (leaf == "bias" and self.kind(module) is nn.Linear)

    def value(self, module: nn.Module, leaf: str, device: torch.device | None = None) -> Tensor | None:
        """Return a parameter as the layer computes with it, in float32 where the host changes what is stored."""
        stored = self.stored(module, leaf)
        if stored is None:
            return None
        moved = stored if device is None else stored.to(device)
        functions, scale = self.functions(module, leaf), self.scale(module, leaf)
        if is_plain(stored) and scale is None and not functions:
            return moved
        value = dequantised(moved).to(torch.float32, copy=True)
        if scale is not None:
            value *= scale.to(value)
        for function in functions:
            value = function(value)
        return value

    def made_of(self, module: nn.Module, leaf: str) -> tuple[tuple[Tensor, ...], tuple[object, ...]]:
        """Return the stored tensors, and the host's functions on them."""
        stored, scale = self.stored(module, leaf), self.scale(module, leaf)
        found = [] if stored is None else pieces(stored)
        return (*found, *(() if scale is None else (scale,))), tuple(self.keys(module, leaf))

    def functions(self, module: nn.Module, leaf: str) -> list[Any]:
        """Return what the host does to a parameter in each forward: networks that it does not keep in the weight."""
        return list(getattr(module, f"{leaf}_function", ()))

    def keys(self, module: nn.Module, leaf: str) -> list[object]:
        """Return objects that are others when those functions do something else."""
        return self.functions(module, leaf)

    def scale(self, module: nn.Module, leaf: str) -> Tensor | None:
        """Return the factor of a weight that is stored scaled."""
        return module._parameters.get("scale_weight") if leaf == "weight" else None

    def call(self, module: nn.Module, inner: Inner, values: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the layer's output for these parameters, which are as it is to compute with them."""
        if self.kind(module) is nn.Linear and not self._takes_plain(module, values):
            return self.linear(module, values, *args, **kwargs)
        with self.off(module, values):
            return super().call(module, inner, values, args, kwargs)

    def _takes_plain(self, module: nn.Module, values: Mapping[str, Tensor]) -> bool:
        """Tell whether the layer's own forward computes with these parameters as they are."""
        plain = is_plain(self.stored(module, "weight")) and self.scale(module, "weight") is None
        return plain and values.keys() <= module._parameters.keys()

    def linear(self, module: nn.Module, values: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Return a linear layer's output where its own forward could not take a plain weight."""
        weight, bias = (values[leaf] if leaf in values else self.value(module, leaf, x.device) for leaf in ("weight", "bias"))
        return F.linear(x, weight.to(x), None if bias is None else bias.to(x))  # type: ignore[union-attr]

    @contextmanager
    def off(self, module: nn.Module, leaves: Mapping[str, Tensor]) -> Iterator[None]:
        """Keep the host from changing these parameters for a while."""
        names = [f"{leaf}_function" for leaf in leaves if self.functions(module, leaf)]
        own = {name: getattr(module, name) for name in names}
        module.__dict__.update({name: [] for name in names})
        try:
            yield
        finally:
            module.__dict__.update(own)


def is_plain(tensor: Tensor | None) -> bool:
    """Tell whether a parameter lies in memory as numbers of the layer's own shape."""
    special = ("gguf_cls", "quant_state", "bnb_quantized", "_qdata")
    return tensor is None or not any(getattr(tensor, name, None) is not None for name in special)


def dequantised(tensor: Tensor) -> Tensor:
    """Return a parameter as numbers of the layer's own shape."""
    if is_plain(tensor):
        return tensor
    if getattr(tensor, "gguf_cls", None) is not None:
        from backend.operations_gguf import dequantize_tensor

        found: Tensor = dequantize_tensor(tensor)
    elif hasattr(tensor, "_qdata"):
        found = tensor.dequantize()
    elif not getattr(tensor, "bnb_quantized", True):
        found = tensor.data  # it is quantised when it first comes to the accelerator
    else:
        from bitsandbytes.functional import dequantize_4bit  # the host's own function wants CUDA wherever the weight lies

        found = dequantize_4bit(tensor.data, quant_state=tensor.quant_state)  # type: ignore[attr-defined]
    return found


def pieces(tensor: Tensor) -> list[Tensor]:
    """Return the plain tensors that a parameter's value follows from."""
    data = getattr(tensor, "_qdata", None)
    if data is None:
        return [tensor]
    return [data, *(value for value in vars(tensor._params).values() if isinstance(value, Tensor))]  # type: ignore[attr-defined]
