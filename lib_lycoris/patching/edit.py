"""One change to one live parameter: an algorithm, its strength, and which rows of which live weights it sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field
from functools import partial

import torch
from torch import Tensor

from ..algorithms import Algorithm, Bypass, Convolution, Layer
from ..networks.summing import Term
from ..records import dataclass
from .activation import SamplingPosition, Strength, at
from .live.base_state import BaseState
from .live.layer_access import LiveParameter
from .memory import for_any_mode

Rows = slice


@dataclass(frozen=True, eq=False)
class BaseRows:
    """Rows of a live parameter."""

    parameter: LiveParameter
    rows: Rows

    def __call__(self, device: torch.device | None = None) -> Tensor:
        """Return them as they are now; zeros for a bias that the layer does not have."""
        return self.parameter.filled(device)[self.rows]


@dataclass(eq=False)
class Edit:
    """What one network does to one live parameter.

    The algorithm's weight is put together from ``sources``: several where a file changes a fused weight and the live model keeps its
    parts apart. Of what the algorithm gives, ``pieces`` says which rows belong to which rows of this parameter.
    """

    algorithm: Algorithm
    strength: Strength
    sources: tuple[BaseRows, ...]
    pieces: tuple[tuple[Rows, Rows], ...]  # (rows of this parameter, rows of the algorithm's weight)
    order: tuple[str, ...]  # the fixed order of several edits of a parameter: digest, parameter, strength, ranks
    whole: bool  # the one piece is all of the parameter
    _bound: tuple[tuple[object, ...], BaseState, Algorithm] | None = field(default=None, repr=False)
    _prepared: tuple[tuple[object, ...], BaseState, Bypass] | None = field(default=None, repr=False)  # for what, of which base

    def now(self, progress: SamplingPosition) -> float:
        """Return the strength at this point of the sampling."""
        return at(self.strength, progress)

    def weight(self, device: torch.device | None = None) -> Tensor:
        """Return the base weight that the algorithm sees, on this device or its own."""
        parts = [source(device) for source in self.sources]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def term(self, strength: float, device: torch.device, base: Tensor | None, again: bool) -> Term:
        """Return what is added at a strength.

        base: the parameter on this device, where it is there; again: whether this will be done at many steps, so that what it needs stays
        on the device.
        """
        weight = base if self.whole and base is not None else self.weight(device)
        algorithm = self._bound_to(weight) if again else self.algorithm
        return Term(algorithm, strength, self.order, lambda: weight, None if self.whole else self.pieces)

    def _bound_to(self, weight: Tensor) -> Algorithm:
        """Return the algorithm prepared for this weight; where it lies on the CPU, in float32, nothing is copied."""
        known, target = self._bound, (weight.device, weight.dtype)
        if known is None or known[0] != target or not known[1].holds():
            self._bound = known = (target, BaseState(self.binds), self.algorithm.bound(weight))
        return known[2]

    def bypass(self, device: torch.device, dtype: torch.dtype, convolution: Convolution | None) -> Bypass:
        """Return the activation-side form, prepared anew only when the device, the dtype or a base weight that it read has changed."""
        target = (device, dtype, convolution)
        known = self._prepared
        if known is not None and known[0] == target and known[1].holds():
            return known[2]
        layer = Layer(partial(self.weight, device), torch.Size(shape_of(self.sources)), device, dtype, convolution)
        state = BaseState(self.binds)
        with for_any_mode():
            change = _of_parts(layer, self) if len(self.sources) > 1 else self.algorithm.bypass(layer)
        self._prepared = (target, state, change)
        return change

    @property
    def binds(self) -> list[LiveParameter]:
        """The live parameters whose values the activation-side form is made of."""
        return [source.parameter for source in self.sources] if self.algorithm.binds_weight else []

    def does(self, other: Edit) -> bool:
        """Tell whether this does all the time what another edit of the same parameter does."""
        same = self.algorithm is other.algorithm and self.pieces == other.pieces
        return same and self.strength == other.strength and self.order == other.order

    def adopt(self, other: Edit) -> None:
        """Take over what another edit of the same algorithm on the same rows has prepared."""
        self._prepared, self._bound = other._prepared, other._bound


def in_order(edits: Iterable[Edit]) -> list[Edit]:
    """Return the edits of one parameter in the order in which they are summed."""
    return sorted(edits, key=lambda edit: edit.order)


def joined(sources: Sequence[BaseRows]) -> Tensor:
    """Return rows of live parameters, one behind the other."""
    return torch.cat([source() for source in sources])


def shape_of(sources: Sequence[BaseRows]) -> tuple[int, ...]:
    """Return the shape of the weight that rows of live parameters make together."""
    rows = sum(source.rows.stop - source.rows.start for source in sources)
    return (rows, *sources[0].parameter.shape[1:])


def _of_parts(layer: Layer, edit: Edit) -> Bypass:
    """Prepare a change of a fused weight for a layer that holds some of its rows: the others' outputs are computed beside it."""
    inner = edit.algorithm.bypass(layer)
    return Bypass(lambda x, y: inner(x, layer.base(x)))
