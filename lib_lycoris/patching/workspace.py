"""What all layers of a model share while networks are on it: the sampling's progress, the way to apply, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from threading import RLock
from typing import Any, Literal

import torch
from torch import Tensor

from ..algorithms import Cost
from .activation import SamplingPosition
from .cost import Way, is_cheaper_beside
from .layer_access import LayerAccess

Mode = Literal["auto", "functional", "merged", "recompute"]
MERGED_BYTES = 256 << 20  # of effective weights that "auto" may keep
LENT_SHARE = 0.15  # of the networks' own bytes: what "functional" may borrow for the weight of one layer at a time


@dataclass
class Workspace:
    """Decides for each layer how its changes are applied, and lends it memory for an effective weight."""

    progress: SamplingPosition = field(default_factory=SamplingPosition)
    mode: Mode = "auto"
    merged_bytes: int = MERGED_BYTES
    access: LayerAccess = field(default_factory=LayerAccess)
    _kept: int = 0
    _lent_bytes: float = 0
    lock: Any = field(default_factory=RLock, repr=False)  # held while a layer is prepared, or used as one thread at a time may
    _scratch: dict[tuple[object, ...], Tensor] = field(default_factory=dict, repr=False)

    def begin(self, mode: Mode, network_bytes: int) -> None:
        """Begin anew: other networks come, of so many bytes in all."""
        self.mode, self._kept, self._lent_bytes = mode, 0, LENT_SHARE * network_bytes

    def free(self) -> None:
        """Let the shared memory go."""
        self._scratch.clear()

    def way(
        self, works: Sequence[Cost], positions: int, size: int, dtype: torch.dtype, device: torch.device, constant: bool, kept: bool
    ) -> Way:
        """Return how a layer's changes are applied.

        size: bytes of its effective weight, in this dtype; constant: whether their strengths stay as they are from step to step;
        kept: whether its effective weight is kept already.
        """
        if self.mode in ("merged", "recompute"):
            return self.mode
        if self.mode == "functional" and (dtype != torch.float32 or size > self._lent_bytes):
            return "functional"  # a sum in half precision would lose what is smaller than its steps
        if is_cheaper_beside(works, positions, device.type):
            return "functional"
        if self.mode == "functional":
            return "recompute"
        more = 0 if kept else size
        if not constant or self._kept + more > self.merged_bytes:
            return "recompute"
        self._kept += more
        return "merged"

    def scratch(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, slot: int) -> Tensor:
        """Return uninitialised memory that the next layer will use again; slot: 0, 1, ... for several parameters of one layer."""
        count = prod(shape)
        place = (dtype, device, slot)
        known = self._scratch.get(place)
        if known is None or known.numel() < count:
            with torch.inference_mode(False):  # what is made in that mode may only be written to in it
                known = self._scratch[place] = torch.empty(count, dtype=dtype, device=device)
        return known[:count].view(tuple(shape))
