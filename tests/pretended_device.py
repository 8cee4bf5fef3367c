"""A device that is not the CPU, without one: tensors that compute on the CPU, say that they lie elsewhere, and watch what is done.

Operations whose tensors lie in different places are refused, as a GPU refuses them. Within ``strict()`` nothing may be copied between the
devices and nothing may wait for the device: no ``item()``, no ``bool(tensor)``, no ``nonzero``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")  # the one beside the CPU that every torch can hold a tensor on
CPU = torch.device("cpu")
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_linalg_check_errors", "_assert_async")
Kwargs = Mapping[str, Any]


class Placed(Tensor):
    """A tensor on the pretended device; ``value`` is the same on the CPU."""

    value: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # what comes back to the CPU is an ordinary tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> Placed:
        made: Placed = Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), storage_offset=value.storage_offset(), dtype=value.dtype, device=DEVICE
        )  # type: ignore[attr-defined]
        made.value = value
        return made

    def __repr__(self, **kwargs: Any) -> str:
        return f"Placed({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Kwargs | None = None) -> Any:
        return computed(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """The pretended device, there for as long as this is entered."""

    is_strict = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Kwargs | None = None) -> Any:
        return computed(func, args, kwargs or {})


@contextmanager
def strict() -> Iterator[None]:
    """Refuse copies between devices and everything that waits for the device."""
    Device.is_strict = True
    try:
        yield
    finally:
        Device.is_strict = False


def computed(func: Any, args: Any, kwargs: Kwargs) -> Any:
    """Return what an operation gives, on the device where its tensors are or which it names."""
    name = func._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_flatten((args, dict(kwargs)))[0] if isinstance(leaf, Tensor)]
    placed = [tensor for tensor in tensors if isinstance(tensor, Placed)]
    target = kwargs.get("device")
    target = (DEVICE if placed else CPU) if target is None else torch.device(target)
    if name == "_to_copy" or name == "copy_":
        _watch(name, any(isinstance(tensor, Placed) != (target.type == DEVICE.type) for tensor in tensors))
    elif placed and len(placed) < len(tensors) and any(tensor.dim() for tensor in tensors if not isinstance(tensor, Placed)):
        raise RuntimeError(f"{name}: tensors on different devices")
    elif placed and name in WAITS:
        _watch(name, True)
    inside: dict[str, Any] = {key: value for key, value in kwargs.items() if key != "device"}
    found = func(*tree_map(_inner, args), **tree_map(_inner, inside), **({"device": CPU} if "device" in kwargs else {}))
    if func._schema.is_mutable:
        return kwargs["out"] if "out" in kwargs else args[0]
    return tree_map(lambda leaf: Placed(leaf) if isinstance(leaf, Tensor) else leaf, found) if target.type == DEVICE.type else found


def _watch(name: str, matters: bool) -> None:
    if matters and Device.is_strict:
        raise RuntimeError(f"{name}: a copy between devices, or a wait for one")


def _inner(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Placed) else leaf


def places(tensor: Tensor, there: bool) -> Tensor:
    """Return a tensor where it is wanted; one that is there as it is."""
    if isinstance(tensor, Placed) == there:
        return tensor
    return Placed(tensor) if there else tensor.value  # type: ignore[attr-defined]


def move(model: nn.Module, there: bool) -> None:
    """Give every layer parameters on the pretended device or on the CPU; new ones, with the same values."""
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None and isinstance(parameter.data, Placed) != there:
                value = Placed(parameter.detach().clone()) if there else parameter.data.value.clone()  # type: ignore[attr-defined]
                module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
