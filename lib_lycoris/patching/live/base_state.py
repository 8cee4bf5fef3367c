"""Fingerprint of a parameter (storage, version, shape, dtype, device) used to invalidate cached results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .layer_access import LiveParameter


class BaseState:
    """The identity of parameters' values: each storage, the place in it, how often it was written to, and what else makes the value.

    A weak reference keeps the storage's address from being given to another one, but not its memory, so moving a model to another device
    or dtype and back frees what it should. Writes through ``parameter.data`` are the one kind that torch does not count.
    """

    __slots__ = ("_seen",)  # there is one for each changed layer

    def __init__(self, parameters: Iterable[LiveParameter]) -> None:
        self._seen = tuple(_Seen(parameter) for parameter in dict.fromkeys(parameters))

    def holds(self) -> bool:
        """Tell whether all have the same values as at the beginning."""
        for seen in self._seen:  # noqa: SIM110 - no generator: this is asked at every call of a layer
            if not seen.holds():
                return False
        return True


class _Seen:
    """One parameter as it was."""

    __slots__ = ("_facts", "_leaf", "_others", "_parameter", "_references", "_table")

    def __init__(self, parameter: LiveParameter) -> None:
        self._parameter, self._leaf = parameter, parameter.leaf
        # where a parameter is all that its value follows from, it is looked up without asking who knows that
        self._table = parameter.module._parameters if parameter.is_plain else None
        tensors, self._others = parameter.made_of()
        self._references = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]
        self._facts = [_facts(tensor) for tensor in tensors]

    def holds(self) -> bool:
        if self._table is not None and (tensor := self._table.get(self._leaf)) is not None:
            return self._is_as_it_was(tensor)
        tensors, others = self._parameter.made_of()
        if len(others) != len(self._others) or [_facts(tensor) for tensor in tensors] != self._facts:
            return False
        return all(one is other for one, other in zip(others, self._others))

    def _is_as_it_was(self, tensor: Tensor) -> bool:
        """Compare with the only tensor's facts one by one, without making what is only thrown away: this is asked at every call."""
        storage, version, offset, shape, stride, dtype = self._facts[0]
        try:
            return (
                tensor.untyped_storage()._cdata == storage
                and (tensor.is_inference() if version is None else tensor._version == version)
                and tensor.dtype is dtype
                and tensor.storage_offset() == offset
                and tensor.stride() == stride
                and tensor.shape == shape
            )
        except RuntimeError:  # one made in inference mode, now in the place of one that counts
            return False


def _facts(tensor: Tensor) -> tuple[Any, ...]:
    """Return what differs where the values may; the storage's address is its own as long as a weak reference to it is held."""
    version = None if tensor.is_inference() else tensor._version  # tensors made in inference mode do not count writes
    return tensor.untyped_storage()._cdata, version, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
