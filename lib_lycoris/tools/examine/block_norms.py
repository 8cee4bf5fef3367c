"""Network -> how much it changes each block: ‖ΔW‖ at strength 1, of factors where they are exact, module by module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from math import sqrt

import torch
from torch import Tensor

from ...models import BaseModel, block_of, count_layers
from ...networks import Network
from ...records import dataclass
from ..files.networks.network_file import Patch, patches
from ..linalg.expand import plain_delta
from ..linalg.low_rank import energy

REST = "-"  # what no block holds: time embeddings and the UNet's head


@dataclass(frozen=True)
class BlockNorm:
    """What a network does to one block; the norms are None where none of it could be measured."""

    changes: int  # layers that it changes
    measured: int  # of them
    norm: float | None  # ‖ΔW‖ at strength 1
    relative: float | None  # ‖ΔW‖ / ‖W‖ over these parameters; None without base weights

    @property
    def size(self) -> float | None:
        """What blocks are compared by: the relative norm where there is one, for layers differ in size."""
        return self.norm if self.relative is None else self.relative


class BaseWeights:
    """Base weights by canonical name; their norms are kept, so that the next network is measured sooner."""

    def __init__(self, read: Callable[[str], Tensor | None]) -> None:
        self.read = read  # None for a parameter that is not there
        self._energy: dict[str, float] = {}

    def energy(self, name: str, weight: Tensor) -> float:
        """Return ‖W‖² of a parameter that has been read."""
        if name not in self._energy:
            self._energy[name] = energy(weight.detach())
        return self._energy[name]


@dataclass
class _Sums:
    names: list[str] = field(default_factory=list)  # of parameters that are changed
    measured: list[str] = field(default_factory=list)
    energy: float = 0.0
    base: float = 0.0
    based: bool = True  # whether the base weight of all that was measured is known

    def made(self) -> BlockNorm:
        if not self.measured:
            return BlockNorm(count_layers(self.names), 0, None, None)
        relative = sqrt(self.energy / self.base) if self.based and self.base > 0 else None
        return BlockNorm(count_layers(self.names), count_layers(self.measured), sqrt(self.energy), relative)


def touched(network: Network) -> dict[str, int]:
    """Return block id -> how many layers the network changes there; the key REST stands for no block."""
    found: dict[str, list[str]] = {}
    for name in network.patches:
        found.setdefault(block_of(name, network.family) or REST, []).append(name)
    return {block: count_layers(names) for block, names in found.items()}


def measure(network: Network, base: BaseModel, weights: BaseWeights | None = None) -> Iterator[tuple[int, int, dict[str, BlockNorm]]]:
    """Yield (changes done, of how many, block id -> norm so far); the last one is complete. ``base`` is what the network was loaded for."""
    work = patches(network, base)
    sums: dict[str, _Sums] = {}
    for done, patch in enumerate(work, 1):
        _add(sums.setdefault(block_of(patch.name, network.family) or REST, _Sums()), patch, weights)
        yield done, len(work), {} if done < len(work) else _made(sums)
    if not work:
        yield 0, 0, {}


def _made(sums: Mapping[str, _Sums]) -> dict[str, BlockNorm]:
    return {block: found.made() for block, found in sums.items()}


def _add(sums: _Sums, patch: Patch, weights: BaseWeights | None) -> None:
    weight = weights.read(patch.name) if weights is not None else None
    sums.names.append(patch.name)
    if weight is None and patch.algorithm.reads_weight:
        return
    sums.measured.append(patch.name)
    sums.energy += delta_energy(patch, weight)
    if weight is None or weights is None:
        sums.based = False
    else:
        sums.base += weights.energy(patch.name, weight)


def delta_energy(patch: Patch, weight: Tensor | None = None) -> float:
    """Return ‖ΔW‖² at strength 1; the base weight is needed by algorithms that read it."""
    with torch.inference_mode():
        if patch.leaf == "weight" and len(patch.shape) > 1:
            found = patch.algorithm.energy(patch.shape)
            if found is not None:
                return found
        if weight is None or not patch.algorithm.reads_weight:
            return energy(plain_delta(patch.algorithm, patch.shape))
        return energy(patch.algorithm.delta(weight.detach().float()))  # a host may store fp8, which nothing can be computed with
