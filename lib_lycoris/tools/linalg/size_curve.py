"""Singular values, measured once -> file size and error of every LoRA that could be made with them, without another decomposition.

They are those of a difference that is to be extracted, or of a network that is to be resized.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...errors import ToolError
from ...networks.reading.dtypes import precision_dtype
from ...records import dataclass
from ..files.networks.growing import room_beside
from ..units import MB, too_little
from .low_rank import relative
from .ranks import NEEDS_ALL, Rule

DIMS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
RATIOS = (1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 70.0, 100.0, 200.0, 500.0, 1000.0)
STEPS = 18  # points of a curve whose ends the values themselves set
LEADING = 128  # singular values that are measured of a layer, where not all of them are


@dataclass(frozen=True, eq=False)
class Part:
    """A layer, or the rows of a fused one that have a module of their own in the file."""

    rows: int
    energy: float
    values: Tensor = field(repr=False)  # leading singular values, falling


@dataclass(frozen=True, eq=False)
class Layer:
    """What was measured of one parameter's difference; energies are squared Frobenius norms."""

    name: str
    shape: tuple[int, ...]
    factorised: bool  # else it is kept whole
    text: bool  # of a text encoder
    longest: int  # characters of the longest name in the file
    keys: int  # that room is kept for in the header
    energy: float
    whole: int = 0  # numbers that are written whatever the rank
    reserved: int = 0  # numbers that a size budget sets aside for them
    values: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)  # of the whole parameter
    parts: tuple[Part, ...] = ()

    @property
    def is_kernel(self) -> bool:
        """Whether it is a convolution that looks at more than one place."""
        return self.factorised and prod(self.shape[2:]) > 1


@dataclass(frozen=True)
class CurveRequest:
    """Those of an extraction's options that decide the size and the error."""

    algorithm: str = "locon"
    dim: int = 32
    conv_dim: int | None = None
    rule: str = "fixed"
    value: float = 0.0
    conv_value: float | None = None
    size: float | None = None  # MB
    style: str = "kohya"
    save_precision: str = "fp16"
    text_encoder: bool = True

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> CurveRequest:
        """Return what options of an extraction ask for. Raises ToolError for an algorithm that has no ranks."""
        asked = cls(**{key: value for key, value in options.items() if key in cls.__dataclass_fields__ and value is not None})
        if asked.algorithm not in ("lora", "locon"):
            raise ToolError(f"sizes and errors are known beforehand for lora and locon, but got {asked.algorithm}; extract it to see them")
        return asked

    @property
    def largest_conv(self) -> int | None:
        """The rank of convolutions at most; None: they are left out."""
        return self.conv_dim if self.conv_dim is not None or self.algorithm == "lora" else self.dim

    def at(self, setting: float) -> CurveRequest:
        """Return the same with another size, rank or value: whichever the rule is set by."""
        if self.size is not None:
            return replace(self, size=setting)
        return replace(self, dim=int(setting)) if self.rule == "fixed" else replace(self, value=setting)


@dataclass(frozen=True)
class Point:
    """One file that could be extracted."""

    setting: float  # the rank, the rule's value or the size that gives it
    bytes: int
    error: float  # relative: √(what is left / all of the change)
    ranks: tuple[int, ...] = field(default=(), repr=False)  # of every part


class _Chosen:
    """The layers that an extraction looks at, as tables: one row for each part."""

    def __init__(self, spectra: Spectra, text: bool, kernels: bool) -> None:
        layers = [layer for layer in spectra.layers if (text or not layer.text) and (kernels or not layer.is_kernel)]
        self.weights = [layer for layer in layers if layer.factorised and layer.energy > 0]
        self.parts = [(index, part) for index, layer in enumerate(self.weights) for part in layer.parts if part.energy > 0]
        self.energy = sum(layer.energy for layer in layers)
        self.kept = sum(layer.energy for layer in layers if not layer.factorised)
        self.whole = sum(layer.whole for layer in layers if not layer.factorised)
        self.reserved = sum(layer.reserved for layer in layers if not layer.factorised)
        keys, longest = sum(layer.keys for layer in layers), max((layer.longest for layer in layers), default=0)
        self.header = room_beside(keys, longest + 20, spectra.notes)
        self.of = torch.tensor([index for index, _ in self.parts], dtype=torch.long)
        self.costs = torch.tensor([part.rows + prod(self.weights[index].shape[1:]) for index, part in self.parts], dtype=torch.long)
        self.sums = self._sums(spectra.whole)
        self._orders: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def _sums(self, whole: bool) -> Tensor:
        """Return the energy of the first 0, 1, 2, ... values of each part (parts, 1 + longest); whole: all values were measured."""
        longest = max((part.values.numel() for _, part in self.parts), default=0)
        sums = torch.zeros(len(self.parts), longest + 1, dtype=torch.float64)
        for row, (index, part) in zip(sums, self.parts, strict=True):
            squares, count = part.values.double().square(), part.values.numel()
            if whole or count == min(part.rows, prod(self.weights[index].shape[1:])):
                # what is not kept is summed, the least first: the difference of two large sums would be their rounding
                row[1:count] = part.energy - squares.flip(0).cumsum(0).flip(0)[1:]
                row[count:] = part.energy
            else:
                row[1 : count + 1] = squares.cumsum(0)
                row[count + 1 :] = row[count].clone()
        return sums

    def order(self, linear: int, conv: int) -> tuple[Tensor, Tensor]:
        """Return the layers in the order in which a size budget gives them ranks, and what each rank costs (numbers)."""
        if (linear, conv) not in self._orders:
            self._orders[linear, conv] = self._ordered(linear, conv)
        return self._orders[linear, conv]

    def _ordered(self, linear: int, conv: int) -> tuple[Tensor, Tensor]:
        gains, costs, owners = [torch.empty(0, dtype=torch.float64)], [torch.empty(0, dtype=torch.float64)], [torch.empty(0).long()]
        for index, layer in enumerate(self.weights):
            values = layer.values[: min(conv if layer.is_kernel else linear, LEADING)].double()
            cost = torch.full(values.shape, layer.shape[0] + prod(layer.shape[1:]) * len(layer.parts), dtype=torch.float64)
            cost[:1] += len(layer.parts) + layer.whole  # alpha, and a DoRA's magnitudes
            gains.append(values.square() / cost)
            costs.append(cost)
            owners.append(torch.full(values.shape, index))
        order = torch.cat(gains).argsort(descending=True, stable=True)
        return torch.cat(owners)[order], torch.cat(costs)[order]


@dataclass(frozen=True, eq=False)
class Spectra:
    """The singular values of all layers."""

    layers: tuple[Layer, ...]
    family: str  # of the base model
    notes: int  # bytes of the metadata that will be written
    whole: bool = False  # all values, not only the leading ones
    limit: int = LEADING  # the rank that a curve ends at
    _tables: dict[tuple[bool, bool], _Chosen] = field(default_factory=dict, repr=False)
    _curves: dict[CurveRequest, tuple[Point, ...]] = field(default_factory=dict, repr=False)

    def _chosen(self, asked: CurveRequest) -> _Chosen:
        key = (asked.text_encoder, bool(asked.largest_conv))
        if key not in self._tables:
            self._tables[key] = _Chosen(self, *key)
        return self._tables[key]

    def point(self, asked: CurveRequest) -> Point:
        """Return the size and the error of the file that an extraction would write. Raises ToolError for what was not measured."""
        self._refuse(asked)
        chosen = self._chosen(asked)
        if asked.size is not None:
            return _point(chosen, asked, asked.size, _shared(chosen, asked))
        value = asked.value if asked.conv_value is None else asked.conv_value
        linear, conv = Rule(asked.rule, asked.value, asked.dim), Rule(asked.rule, value, asked.largest_conv)
        rules = (conv if chosen.weights[index].is_kernel else linear for index, _ in chosen.parts)
        ranks = [rule.choose(part.values, part.energy) for rule, (_, part) in zip(rules, chosen.parts, strict=True)]
        return _point(chosen, asked, asked.dim if asked.rule == "fixed" else asked.value, torch.tensor(ranks, dtype=torch.long))

    def curve(self, asked: CurveRequest) -> tuple[Point, ...]:
        """Return the files along the way of the option that the rule is set by, smallest first; remembered. Raises ToolError."""
        self._refuse(asked)
        key = asked.at(1)
        if key not in self._curves:
            found = [self.point(asked.at(setting)) for setting in self._settings(asked)]
            self._curves[key] = tuple(sorted(found, key=lambda point: (point.bytes, -point.error)))
        return self._curves[key]

    def _settings(self, asked: CurveRequest) -> Sequence[float]:
        if asked.size is not None:
            least, most = _least(self._chosen(asked), asked), _most(self._chosen(asked), asked)
            return [least + (most - least) * (step / STEPS) ** 2 for step in range(1, STEPS + 1)]
        if asked.rule == "fixed":
            highest = min(self.limit, max((layer.values.numel() for layer in self._chosen(asked).weights), default=1))
            return sorted({dim for dim in DIMS if dim < highest} | {highest})
        return RATIOS if asked.rule == "sv_ratio" else self._thresholds(asked) if asked.rule == "threshold" else SHARES

    def strongest(self, count: int) -> list[Layer]:
        """Return the layers that change most."""
        weights = [layer for layer in self.layers if layer.factorised and layer.energy > 0]
        return sorted(weights, key=lambda layer: -layer.energy)[:count]

    def rank_of(self, layer: Layer, asked: CurveRequest, point: Point) -> int:
        """Return the rank of a layer in a file, the largest of its parts; 0 where the file does not have it."""
        chosen = self._chosen(asked)
        found = (rank for (index, _), rank in zip(chosen.parts, point.ranks, strict=True) if chosen.weights[index] is layer)
        return max(found, default=0)

    def energies(self) -> list[tuple[str, float]]:
        """Return the energy of every layer's change by canonical name."""
        return [(layer.name, layer.energy) for layer in self.layers]

    def _thresholds(self, asked: CurveRequest) -> Sequence[float]:
        tops = [float(layer.values[0]) for layer in self._chosen(asked).weights]
        top = max(tops, default=1.0)
        return [top * 0.001 ** (step / STEPS) for step in range(1, STEPS + 1)]

    def _refuse(self, asked: CurveRequest) -> None:
        if not self.whole and asked.rule in NEEDS_ALL and asked.size is None:
            raise ToolError(f"the rule {asked.rule} needs all singular values, but only the leading {LEADING} were measured; measure again")
        most = max(asked.dim, asked.conv_dim or 1)
        if not self.whole and most > LEADING:
            raise ToolError(f"the curve was measured up to rank {LEADING}, but {most} is asked for")
        if not self._chosen(asked).energy:
            raise ToolError("nothing is changed anywhere: there is nothing to keep")


def _width(asked: CurveRequest) -> int:
    return torch.empty(0, dtype=precision_dtype(asked.save_precision, torch.float16)).element_size()


def _point(chosen: _Chosen, asked: CurveRequest, setting: float, ranks: Tensor) -> Point:
    counts = ranks.clamp_max(chosen.sums.shape[1] - 1)
    captured = float(chosen.sums.gather(1, counts[:, None]).sum()) + chosen.kept if counts.numel() else chosen.kept
    alphas = int((ranks > 0).sum()) if asked.style in ("kohya", "lycoris") else 0
    more = sum(chosen.weights[index].whole for (index, _), rank in zip(chosen.parts, ranks.tolist()) if rank)
    numbers = int((ranks * chosen.costs).sum()) + alphas + chosen.whole + more
    error = relative(chosen.energy - captured, chosen.energy)
    return Point(setting, chosen.header + numbers * _width(asked), error, tuple(ranks.tolist()))


def _shared(chosen: _Chosen, asked: CurveRequest) -> Tensor:
    """Return the rank of each part when a size is shared out: the ranks with the most energy for their bytes."""
    assert asked.size is not None
    width = _width(asked)
    room = (int(asked.size * MB) - chosen.header) // width - chosen.reserved
    if room <= 0:
        raise too_little(asked.size * MB, _least(chosen, asked) * MB)
    owners, costs = chosen.order(asked.dim, asked.largest_conv or 0)
    spent = costs.cumsum(0)
    within = int(torch.searchsorted(spent, torch.tensor(float(room), dtype=torch.float64), right=True))
    ranks = torch.bincount(owners[:within], minlength=len(chosen.weights))
    left, full = room - (float(spent[within - 1]) if within else 0.0), set()
    cheapest = float(costs.min()) if costs.numel() else 0.0
    for owner, cost in zip(owners[within:].tolist(), costs[within:].tolist(), strict=True):  # smaller layers may still fit
        if left < cheapest:
            break
        if owner in full or cost > left:
            full.add(owner)
        else:
            ranks[owner] += 1
            left -= cost
    return ranks[chosen.of].minimum(torch.tensor([part.values.numel() for _, part in chosen.parts], dtype=torch.long))


def _least(chosen: _Chosen, asked: CurveRequest) -> float:
    """Return the size in MB of a file without any rank."""
    return (chosen.header + (chosen.reserved + 1) * _width(asked)) / MB


def _most(chosen: _Chosen, asked: CurveRequest) -> float:
    """Return the size in MB beyond which there is nothing left to add."""
    ranks = float(chosen.order(asked.dim, asked.largest_conv or 0)[1].sum())
    return (chosen.header + (chosen.reserved + ranks) * _width(asked)) / MB + 0.01
