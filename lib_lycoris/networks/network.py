"""A network: one file, loaded - the change that it makes to each parameter, and what of the file could not be used, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..algorithms import Algorithm


class Skipped(NamedTuple):
    """A key of the file that changes nothing, and why."""

    key: str
    reason: str


@dataclass(frozen=True, eq=False)
class Network:
    """Canonical parameter name -> algorithm; nothing of the file is dropped in silence."""

    name: str
    path: Path
    patches: Mapping[str, Algorithm]
    skipped: tuple[Skipped, ...]
    metadata: Mapping[str, str]
    embeddings: Mapping[str, Mapping[str, Tensor]]  # embedding -> part -> vectors
    family: str  # of the base model whose names the patches have
    digest: str  # of the content: the fixed order of several networks, and the key of caches
    modules: Mapping[str, str]  # canonical parameter name -> the file's name of the module

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        vectors = sum(tensor.nbytes for parts in self.embeddings.values() for tensor in parts.values())
        return vectors + sum(patch.bytes for patch in self.patches.values())
