"""Tells whether a base weight is still the one that something was computed from, without keeping it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .layer_access import LiveParameter


class BaseState:
    """The identity of parameters' values: each storage, the place in it, how often it was written to, and what else makes the value.

    A weak reference keeps the storage's address from being given to another one, but not its memory, so moving a model to another device
    or dtype and back frees what it should. Writes through ``parameter.data`` are the one kind that torch does not count.
    """

    def __init__(self, *parameters: LiveParameter) -> None:
        tensors, self._others = _made_of(parameters)
        self._references = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]
        self._facts = [_facts(tensor) for tensor in tensors]

    def holds(self, *parameters: LiveParameter) -> bool:
        """Tell whether these have the same values as at the beginning."""
        tensors, others = _made_of(parameters)
        if len(tensors) != len(self._facts) or len(others) != len(self._others):
            return False
        return all(one is other for one, other in zip(others, self._others)) and all(
            reference.cdata == tensor.untyped_storage()._cdata and facts == _facts(tensor)
            for reference, facts, tensor in zip(self._references, self._facts, tensors)
        )


def _made_of(parameters: Sequence[LiveParameter]) -> tuple[list[Tensor], list[object]]:
    found = [parameter.made_of() for parameter in parameters]
    return [tensor for tensors, _ in found for tensor in tensors], [other for _, others in found for other in others]


def _facts(tensor: Tensor) -> tuple[Any, ...]:
    version = 0 if tensor.is_inference() else tensor._version  # tensors made in inference mode do not count writes
    return version, tensor.storage_offset(), tensor.shape, tensor.dtype, tensor.device
