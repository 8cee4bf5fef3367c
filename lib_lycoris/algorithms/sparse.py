"""ΔW = Σ value_i · E_(place i): chosen entries of W - PEFT's SHiRA by row and column, its SuperTuning by place in the flattened W.

SHiRA (arXiv 2406.13175); SuperTuning keeps a LoRA beside its entries where the config has ``r`` (Supra). On linear layers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer, dense
from .base import Algorithm, flat, only_linear, precise, stored
from .config import Config
from .stored_values import Ways, other_layer


class Sparse(Algorithm):
    """Values and where they are added."""

    additive: ClassVar[bool] = True
    one_of_each_term: ClassVar[tuple[str, ...]] = ("entries",)

    entries: Tensor

    @abstractmethod
    def places(self, shape: Sequence[int]) -> Tensor:
        """Return each value's place in the flattened weight."""

    def misplaced(self, places: Tensor, below: Sequence[int], shape: Sequence[int]) -> str | None:
        """Say that there are not as many places (axes, n) as values, or that one is outside of the layer."""
        if problem := only_linear(self.name, shape):
            return problem
        key = next(iter(self.suffixes().values()))
        if self.entries.dim() != 1 or places.shape[1:] != self.entries.shape or places.is_floating_point():
            return f"{key} {tuple(self.entries.shape)} does not fit its indices {tuple(places.shape)} of {places.dtype}"
        for axis, size in zip(places, below):
            low, high = (int(v) for v in torch.aminmax(axis))
            if not (low >= 0 and high < size):
                return (
                    f"{key} has values at {low} to {high}, but the layer {tuple(shape)} has {size} there - is this file for another model?"
                )
        return None

    def delta(self, weight: Tensor) -> Tensor:
        """Return the values in their places, 0 elsewhere."""
        found = torch.zeros(weight.numel(), dtype=precise(self.entries, weight).dtype, device=weight.device)
        return found.index_add(0, self.places(weight.shape).to(weight.device), precise(self.entries, weight)).reshape(weight.shape)

    def add_delta(self, out: Tensor, base: Tensor, weight: Tensor, strength: float) -> None:
        """Write base + s · ΔW into out, without ΔW in between."""
        if out is not base:
            out.copy_(base)
        out.view(-1).index_add_(0, self.places(out.shape).to(out.device), precise(self.entries, out), alpha=strength)

    def bypass(self, layer: Layer) -> Bypass:
        """Return a second full-size product: no faster one is known for a few of a hundred entries."""
        return dense(layer, self.delta(layer.weight))


@dataclass(frozen=True, eq=False, kw_only=True)
class SHiRA(Sparse):
    """Entries by row and column."""

    name: ClassVar[str] = "shira"

    entries: Tensor = stored("shira_weight")  # (n,)
    indices: Tensor = stored("shira_indices", axes=(2, 2), whole=True)  # (2, n)

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that an entry is outside of the layer."""
        if len(self.indices) != 2:
            return f"shira_indices {tuple(self.indices.shape)} are no rows and columns"
        return self.misplaced(self.indices, shape, shape)

    def places(self, shape: Sequence[int]) -> Tensor:
        """Return row · in + column."""
        rows, columns = self.indices.long()
        places: Tensor = rows * shape[1] + columns
        return places


@dataclass(frozen=True, eq=False, kw_only=True)
class SuperTuning(Sparse):
    """Entries by place, and a LoRA beside them."""

    name: ClassVar[str] = "supertuning"
    ways: ClassVar[Ways] = ((frozenset(), frozenset({"supertuning_lora_A.weight", "supertuning_lora_B.weight"})),)
    one_of_each_term: ClassVar[tuple[str, ...]] = ("entries", "up")

    entries: Tensor = stored("supertuning_values")  # (n,)
    indices: Tensor = stored("supertuning_indices", whole=True)  # (n,), into the flattened W
    up: Tensor | None = stored("supertuning_lora_B.weight", optional=True, axes=(2, 2))  # (out, r)
    down: Tensor | None = stored("supertuning_lora_A.weight", optional=True, axes=(2, 2))  # (r, in)
    scale: float = 1.0  # α/r of the LoRA

    @classmethod
    def from_config(cls, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the scale of the LoRA."""
        return {"scale": config.number("lora_alpha", 1) / config.integer("r", 1, least=1)} if "r" in config else {}

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that an entry is outside of the layer, or that the LoRA has another shape."""
        if problem := self.misplaced(self.indices[None], (prod(shape),), shape):
            return problem
        up, down = self.up, self.down
        if up is None and down is None:
            return None
        if up is None or down is None or (up.shape[0], down.shape[1]) != (shape[0], shape[1]) or up.shape[1] != down.shape[0]:
            return other_layer(self.tensors(), shape)
        return None

    def places(self, shape: Sequence[int]) -> Tensor:
        """Return the indices."""
        return self.indices.long()

    def delta(self, weight: Tensor) -> Tensor:
        """Return the values in their places, and the LoRA."""
        found = super().delta(weight)
        if self.up is None or self.down is None:
            return found
        return flat(found).addmm(precise(self.up, weight), precise(self.down, weight), alpha=self.scale).reshape(weight.shape)

    def add_delta(self, out: Tensor, base: Tensor, weight: Tensor, strength: float) -> None:
        """Write base + s · ΔW into out."""
        super().add_delta(out, base, weight, strength)
        if self.up is not None and self.down is not None:
            out.view(out.shape[0], -1).addmm_(precise(self.up, out), precise(self.down, out), alpha=strength * self.scale)
