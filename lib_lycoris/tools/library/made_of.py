"""A checkpoint's difference from its base model as a sum of networks: least squares on a few layers, the networks chosen one after another.

A network counts where what it explains is far beyond chance; its strength has a standard error, from what nothing explains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod, sqrt

import torch
from torch import Tensor

from ...algorithms.base import flat
from ...errors import ModelMismatchError
from ...models import parameter, rows, split_parameter
from ...records import dataclass
from ..extract.difference import Reader
from ..files.checkpoints.checkpoint import Checkpoint
from ..files.networks.compose import placed
from .sampled import Change, SampledNetwork, name_hash
from .sketch import inner

Pair = tuple[Tensor, Tensor]

MOST = 32  # networks in one checkpoint
LAYERS = 6  # that are looked at, of each text encoder and of the UNet
LARGEST = 1 << 22  # numbers of a layer that is looked at
BEYOND_CHANCE = 6.0  # standard errors from which a strength counts
SMALLEST = 0.02  # strength from which a network counts: unrelated ones of one kind are that much alike
SHARE = 1e-3  # of what is left, from which it counts too: some networks are used at such strengths


@dataclass(frozen=True)
class Part:
    """How strongly one network is in one component of the checkpoint."""

    network: int  # its place in the library
    strength: float
    error: float  # standard error


@dataclass(frozen=True)
class Explained:
    """What was found in one component."""

    parts: tuple[Part, ...]
    energy: float  # of the difference
    left: float  # of it that nothing explains
    layers: tuple[str, ...]


def check_pair(tuned: Checkpoint, base: Checkpoint) -> None:
    """Raise ModelMismatchError where two checkpoints cannot have been made from each other: of two families, or mostly of other sizes."""
    if tuned.base.family != base.base.family:
        raise ModelMismatchError(
            f"{tuned.path.name} is {tuned.base.label}, but {base.path.name} is {base.base.label}; both must be of one family"
        )
    common = tuned.base.layers.keys() & base.base.layers.keys()
    others = sorted(layer for layer in common if not _is_alike(tuned, base, layer))
    if others and 2 * len(others) >= len(common):
        sizes = (f"{tuple(one.base.layers[others[0]].shape)} in {one.path.name}" for one in (tuned, base))
        raise ModelMismatchError(f"{others[0]} is {', but '.join(sizes)}; both must be of one size")


def _is_alike(tuned: Checkpoint, base: Checkpoint, layer: str) -> bool:
    its = tuned.base.layers.get(layer)
    return its is not None and tuple(its.shape) == tuple(base.base.layers[layer].shape)


def layers_to_look_at(tuned: Checkpoint, base: Checkpoint, layouts: Sequence[Mapping[str, object]]) -> dict[str, list[str]]:
    """Return component -> layers of two checkpoints that most networks change, of those the ones with the smallest hashes."""
    counts = Counter(layer for layout in layouts for layer in layout)
    found: dict[str, list[str]] = {}
    for layer, _ in sorted(counts.items(), key=lambda item: (-item[1], name_hash(item[0]))):
        info, component = base.base.layers.get(layer), base.base.component_of(layer)
        if (
            info is None
            or component is None
            or len(info.shape) < 2
            or prod(info.shape) > LARGEST
            or not _is_alike(tuned, base, layer)
            or not base.places(parameter(layer, "weight"))
        ):
            continue
        listed = found.setdefault(component.key, [])
        if len(listed) < LAYERS:
            listed.append(layer)
    return found


def numbers_looked_at(base: Checkpoint) -> int:
    """Return about how many numbers of a checkpoint are looked at, before it is known which layers the networks change."""
    sizes: dict[str, list[int]] = {}
    for layer, info in base.base.layers.items():
        if len(info.shape) > 1 and prod(info.shape) <= LARGEST and (component := base.base.component_of(layer)) is not None:
            sizes.setdefault(component.key, []).append(prod(info.shape))
    return round(sum(min(LAYERS, len(found)) * sum(found) / len(found) for found in sizes.values()))


def explained(tuned: Reader, base: Reader, files: Sequence[SampledNetwork], layers: Sequence[str]) -> Explained:
    """Return the networks in a checkpoint by the layers of one component, which have one shape in both."""
    names = [parameter(layer, "weight") for layer in layers]
    weights = {name: _read(base, name) for name in names}
    rest = {name: _read(tuned, name) - weights[name] for name in names}
    total, numbers = _energy(rest), sum(matrix.numel() for matrix in rest.values())
    deltas = _Deltas(files, weights)
    sizes = [deltas.energy(index) for index in range(len(files))]
    chosen: list[int] = []
    strengths, inverse = torch.empty(0), torch.empty(0, 0)
    difference = {name: matrix.clone() for name, matrix in rest.items()}
    while len(chosen) < MOST and (left := _energy(rest)) > 1e-12 * total:
        best = _best(deltas, sizes, rest, chosen, left / numbers)
        if best is None:
            break
        chosen.append(best)
        strengths, inverse = deltas.fitted(chosen, difference)
        rest = deltas.without(chosen, strengths, difference)
    noise = sqrt(_energy(rest) / max(1, numbers - len(chosen)))
    parts = [Part(index, float(s), noise * sqrt(max(float(inverse[i, i]), 0.0))) for i, (index, s) in enumerate(zip(chosen, strengths))]
    return Explained(tuple(parts), total, _energy(rest), tuple(layers))


def _best(deltas: _Deltas, sizes: Sequence[float], rest: Mapping[str, Tensor], chosen: Sequence[int], variance: float) -> int | None:
    """Return the network that explains most of the rest; None where none does more than chance and likeness."""
    best, most = None, BEYOND_CHANCE**2 * variance
    left = _energy(rest)
    for index, size in enumerate(sizes):
        if index in chosen or size <= 0:
            continue
        dot = deltas.dot(index, rest)
        gain = dot * dot / size
        if gain > most and (abs(dot) / size >= SMALLEST or gain >= SHARE * left):
            best, most = index, gain
    return best


class _Deltas:
    """The networks' changes of the layers that are looked at; each is made of its few tensors when it is asked for."""

    def __init__(self, files: Sequence[SampledNetwork], weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self._changes = [_by_parameter(file.changes, weights) for file in files]

    def form(self, index: int, name: str) -> Pair | Tensor | None:
        """Return a network's change of a whole parameter, as factors where it has them; None where it has none."""
        parts = self._changes[index].get(name)
        if parts is None:
            return None
        only = parts.get("")
        if only is not None and not only.algorithm.reads_weight and (pair := only.algorithm.low_rank(only.shape)):
            return pair
        weight = self.weights[name]
        shape = tuple(weight.shape)
        return flat(placed({part: _delta(change, weight, part) for part, change in parts.items()}, shape, shape))

    def dot(self, index: int, other: Mapping[str, Tensor]) -> float:
        """Return Σ Δ ⊙ D over the layers."""
        found = ((self.form(index, name), matrix) for name, matrix in other.items())
        return sum(inner(form, flat(matrix)) for form, matrix in found if form is not None)

    def energy(self, index: int) -> float:
        """Return Σ ‖Δ‖²."""
        found = (self.form(index, name) for name in self.weights)
        return sum(inner(form, form) for form in found if form is not None)

    def fitted(self, chosen: Sequence[int], difference: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the strengths that leave least of the difference, and the inverse of the normal equations."""
        gram = torch.zeros(len(chosen), len(chosen), dtype=torch.float64)
        for name in difference:
            forms = [self.form(index, name) for index in chosen]
            for i, one in enumerate(forms):
                for j, other in enumerate(forms[: i + 1]):
                    if one is not None and other is not None:
                        gram[i, j] += inner(one, other)
        gram = gram + gram.tril(-1).T
        inverse = torch.linalg.pinv(gram, hermitian=True)
        return inverse @ torch.tensor([self.dot(index, difference) for index in chosen], dtype=torch.float64), inverse

    def without(self, chosen: Sequence[int], strengths: Tensor, difference: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what is left of the difference."""
        found = {name: matrix.clone() for name, matrix in difference.items()}
        for index, strength in zip(chosen, strengths.tolist()):
            for name, matrix in found.items():
                form = self.form(index, name)
                if form is not None:
                    delta = form[0] @ form[1] if isinstance(form, tuple) else form
                    matrix -= strength * delta.reshape(matrix.shape)
        return found


def _by_parameter(changes: Mapping[str, Change], weights: Mapping[str, Tensor]) -> dict[str, dict[str, Change]]:
    """Return parameter -> part ("" for the whole) -> change, of the parameters that are looked at."""
    found: dict[str, dict[str, Change]] = {}
    for name, change in changes.items():
        whole, _, part = name.partition("[")
        if whole in weights:
            found.setdefault(whole, {})[part.rstrip("]")] = change
    return found


def _delta(change: Change, weight: Tensor, part: str) -> Tensor:
    if not change.algorithm.reads_weight:
        return change.algorithm.delta(torch.zeros(change.shape))
    if part == "T":
        return change.algorithm.delta(weight.T)
    pieces = rows(part or None, tuple(weight.shape))
    return change.algorithm.delta(torch.cat([weight[piece] for piece in pieces]))


def _read(reader: Reader, name: str) -> Tensor:
    info = reader.checkpoint.base.layers.get(split_parameter(name)[0])
    if info is None or not reader.checkpoint.places(name):
        raise ModelMismatchError(f"{reader.checkpoint.path.name} has no {name}; is it of the same base model?")
    return reader.read(name, tuple(info.shape))


def _energy(matrices: Mapping[str, Tensor]) -> float:
    return sum(float(matrix.double().square().sum()) for matrix in matrices.values())
