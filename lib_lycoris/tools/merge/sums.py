"""The changes of one parameter by several networks, added up, and whether these cancel each other.

What is left is measured on a few fixed random vectors: ‖ΔW · v‖² is ‖ΔW‖² on average, and 0 only where nothing is left.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

import torch
from torch import Tensor

from ...algorithms.base import flat
from ...errors import ToolError
from ...models import count_layers
from ...networks.summing import ROUNDING
from ...records import dataclass
from ...wording import counted
from ..files.networks.compose import Pair, concatenated
from ..files.networks.network_file import changes_nothing, delta_on
from ..linalg.combine import combined
from ..linalg.expand import plain_delta
from .networks_options import Item, Key, NetworksMergeOptions

VECTORS = 16


@dataclass(frozen=True)
class Sum:
    """Σ s · ΔW of one parameter."""

    pairs: dict[str, Pair]  # part -> factors
    dense: dict[str, Tensor]  # part -> what has none
    apart: float  # Σ ‖s · ΔW · v‖² of the networks; 0 of one alone

    def is_rounding(self, request: NetworksMergeOptions) -> bool:
        """Tell whether no more is left of the parts than their rounding: factors that are written are rounded once more, each alone."""
        if not self.apart:
            return False
        left, noise = 0.0, ROUNDING**2 * self.apart
        for part in {*self.pairs, *self.dense}:
            pair, delta = self.pairs.get(part), self.dense.get(part)
            image = torch.stack([_image(one) for one in (pair, delta) if one is not None]).sum(0)
            left += _size(image)
            if pair is not None and delta is None and request.keeps_factors:
                noise += _size(_image((pair[0].to(request.dtype), pair[1].to(request.dtype))) - image)
        return left <= noise


def _image(change: Pair | Tensor) -> Tensor:
    """Return ΔW · v; in float64 for factors, where what cancels is added up."""
    if isinstance(change, Tensor):
        matrix = flat(change)
        return (matrix @ _vectors(matrix.shape[1]).to(matrix.dtype)).double()
    up, down = (factor.double() for factor in change)
    return up @ (down @ _vectors(down.shape[1]))


def _size(image: Tensor) -> float:
    return float(image.square().sum())


@lru_cache(maxsize=64)
def _vectors(columns: int) -> Tensor:
    return torch.randn(columns, VECTORS, dtype=torch.float64, generator=torch.Generator().manual_seed(columns))


def cancels(request: NetworksMergeOptions, key: Key) -> bool:
    """Tell whether only rounding is left of a parameter's changes, where one is asked for with a negative strength."""
    items = request.work[key]
    return len(items) > 1 and any(item.strength < 0 for item in items) and summed(request, key).is_rounding(request)


def summed(request: NetworksMergeOptions, key: Key) -> Sum:
    """Return the changes of a parameter added up: as factors where they have some."""
    pairs: dict[str, list[Pair]] = {}
    dense: dict[str, list[tuple[Item, Tensor]]] = {}
    apart, several = 0.0, len(request.work[key]) > 1
    for item in request.work[key]:
        if changes_nothing(item.patch, request.weights.checkpoint if request.weights else None):
            continue
        patch, weight = item.patch, request.base_weight(item.patch)
        low = patch.leaf == "weight" and len(patch.shape) > 1 and request.method == "sum"
        pair = patch.algorithm.low_rank(patch.shape, weight) if low else None
        if pair is not None:
            pairs.setdefault(patch.part, []).append((pair[0] * item.strength, pair[1]))
            apart += _size(_image(pairs[patch.part][-1])) if several else 0.0
        else:
            delta = plain_delta(patch.algorithm, patch.shape) if weight is None else _delta(request, item)
            dense.setdefault(patch.part, []).append((item, delta))
            apart += item.strength**2 * _size(_image(delta)) if several else 0.0
    whole = {part: combined(request.method, request.density, request.seed, part, items) for part, items in dense.items()}
    return Sum({part: concatenated(found) for part, found in pairs.items()}, whole, apart)


def _delta(request: NetworksMergeOptions, item: Item) -> Tensor:
    assert request.weights is not None
    return delta_on(item.patch, request.base, request.weights.read)


def refuse_if_all_cancel(request: NetworksMergeOptions, cancelled: Collection[str], left: bool) -> None:
    """Raise ToolError where nothing is left of the sum but its rounding."""
    if cancelled and not left and not any(network.embeddings for network in request.networks):
        raise ToolError("the networks cancel each other: nothing but rounding is left of their sum; nothing was written")


def cancelled_lines(cancelled: Collection[str]) -> list[str]:
    """Say in how many layers the networks cancel each other; cancelled: parameters."""
    layers = counted(count_layers(cancelled), "layer")
    return [f"the networks cancel each other in {layers}, where only rounding is left: left out"] if cancelled else []
