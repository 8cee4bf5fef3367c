"""Tells whether a base weight is still the one that something was computed from, without keeping it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


class BaseState:
    """The identity of a parameter's values: its storage, its place in it, and how often it was written to.

    A weak reference keeps the storage's address from being given to another one, but not its memory, so moving a model to another device
    or dtype and back frees what it should. Writes through ``parameter.data`` are the one kind that torch does not count.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._references = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]
        self._facts = [_facts(tensor) for tensor in tensors]

    def holds(self, *tensors: Tensor) -> bool:
        """Tell whether these are the same values as at the beginning."""
        return len(tensors) == len(self._facts) and all(
            reference.cdata == tensor.untyped_storage()._cdata and facts == _facts(tensor)
            for reference, facts, tensor in zip(self._references, self._facts, tensors)
        )


def _facts(tensor: Tensor) -> tuple[Any, ...]:
    version = 0 if tensor.is_inference() else tensor._version  # tensors made in inference mode do not count writes
    return version, tensor.storage_offset(), tensor.shape, tensor.dtype, tensor.device
