"""A network: one file, loaded - the change that it makes to each parameter, and what of the file could not be used, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..algorithms import Algorithm
from ..models import BaseModel, split_parameter
from ..records import dataclass


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
    candidates: tuple[str, ...] = ()  # the families of base models that the file fits, the likeliest first
    chosen: bool = False  # whether the family is that of a model at hand, or what the user says

    @property
    def is_sure(self) -> bool:
        """Whether the base model is known: the file fits no other, or it was chosen of those that it fits."""
        return self.family in self.candidates and (self.chosen or len(self.candidates) == 1)

    @property
    def coverage(self) -> str | None:
        """Say how many of the file's layers are applied; None when all are."""
        return self.covered(self.modules)

    def covered(self, names: Iterable[str]) -> str | None:
        """Say how many of the file's layers these parameters are of; None when of all."""
        used = len({self.modules.get(name) for name in names})
        return None if used >= self.layers else f"{used} of {self.layers} layers"

    def usable(self, problem: Callable[[str], str | None]) -> tuple[dict[str, Algorithm], list[Skipped]]:
        """Return the changes that can be made, and the others with why: of a module of the file all, or none.

        problem(parameter name) says why that parameter cannot be changed. A bias that is not there and would only be turned or multiplied,
        or gets a change of zero, is neither: the module does nothing to it.
        """
        wrong = {name: why for name in self.patches if (why := problem(name))}
        owner = {name: self.modules.get(name, name) for name in self.patches}
        spoiled: dict[str, str] = {}  # module -> the parameter that cannot be changed
        for name in wrong:
            nothing = self.patches[name].keeps_zero or self.patches[name].is_zero
            if not (nothing and split_parameter(name)[1] == "bias"):
                spoiled.setdefault(owner[name], name)
        usable = {n: algorithm for n, algorithm in self.patches.items() if n not in wrong and owner[n] not in spoiled}
        beside = {n: first for n in self.patches if (first := spoiled.get(owner[n]))}
        never = "and a layer is never applied in part"
        reasons = {name: wrong.get(name) or f"{first}: {wrong[first]}, {never}" for name, first in beside.items()}
        return usable, [Skipped(name, reason) for name, reason in reasons.items()]

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        vectors = sum(tensor.nbytes for parts in self.embeddings.values() for tensor in parts.values())
        return vectors + sum(patch.bytes for patch in self.patches.values())
