"""A network: one file, loaded - the change that it makes to each parameter, and what of the file could not be used, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..algorithms import Algorithm
from ..models import BaseModel


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
    base: BaseModel  # what the file was matched with
    layers: int = 0  # modules of the file, those that change nothing too

    @property
    def coverage(self) -> str | None:
        """Say how many of the file's layers are applied; None when all are."""
        used = len(set(self.modules.values()))
        return None if used >= self.layers else f"{used} of {self.layers} layers"

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        vectors = sum(tensor.nbytes for parts in self.embeddings.values() for tensor in parts.values())
        return vectors + sum(patch.bytes for patch in self.patches.values())
