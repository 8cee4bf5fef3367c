"""Network -> how much each of its modules changes, and the singular values of chosen ones; no base model is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field
from math import sqrt
from pathlib import Path

from ... import models
from ...networks import load
from ...records import dataclass
from ..files.networks.network_file import patches
from .block_norms import delta_energy
from .spectra import spectrum


@dataclass(frozen=True)
class Sizes:
    """‖ΔW‖² at strength 1 by canonical parameter; what depends on the base weight cannot be told without it."""

    family: str
    modules: int
    energies: dict[str, float] = field(default_factory=dict)
    unmeasured: tuple[str, ...] = ()

    def norm(self, parameter: str | None) -> float | None:
        """Return ‖ΔW‖ of a parameter; None where it is not known."""
        energy = self.energies.get(parameter or "")
        return None if energy is None else sqrt(energy)

    def strongest(self, count: int) -> list[str]:
        """Return the parameters that are changed most, the most changed first."""
        return sorted(self.energies, key=self.energies.__getitem__, reverse=True)[:count]


def measure_modules(path: Path, base: models.BaseModel | None = None, family: str | None = None) -> Iterator[tuple[int, Sizes]]:
    """Yield (modules done, what is known so far) until the last one is complete.

    base: for a model of unusual size; family: the one that the file is to be read for.

    Raises NetworkFormatError, ModelMismatchError.
    """
    network = load(path, base, family=family)
    work = patches(network, base or network.base)
    energies: dict[str, float] = {}
    unmeasured: list[str] = []
    for done, patch in enumerate(work):
        yield done, Sizes(network.family, len(work))
        if patch.algorithm.reads_weight:
            unmeasured.append(patch.name)
        else:
            energies[patch.name] = delta_energy(patch)
    yield len(work), Sizes(network.family, len(work), energies, tuple(unmeasured))


def singular_values(
    path: Path, parameters: Sequence[str], base: models.BaseModel | None = None, family: str | None = None
) -> dict[str, list[float]]:
    """Return the singular values of some changes, falling, without those that depend on the base weight; raises as measure_modules."""
    network = load(path, base, family=family)
    known = {patch.name: patch for patch in patches(network, base or network.base)}
    found = {}
    for name in parameters:
        measured = spectrum(known[name]) if name in known else None
        if measured is not None:
            found[name] = [float(value) for value in measured.values]
    return found
