"""What all layers of a model share while networks are on it: the sampling's progress, the way to apply, and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from threading import RLock
from typing import Any, Literal

import torch
from torch import Tensor

from ..algorithms import Cost
from .activation import SamplingPosition
from .cost import Way, gain, is_cheaper_beside
from .live.layer_access import LayerAccess
from .room import least_gain, room_on

Mode = Literal["auto", "functional", "merged", "recompute"]
Gains = Callable[[str], Iterable[tuple[float, int]]]  # kind of device -> what each layer's weight would gain for each byte, and its bytes
LENT_SHARE = 0.15  # of the networks' own bytes: what "functional" may borrow for the weight of one layer at a time


def _nothing(device: str) -> tuple[()]:
    """Return what no layers would gain."""
    return ()


@dataclass
class Workspace:
    """Decides for each layer how its changes are applied, and lends it memory for an effective weight."""

    progress: SamplingPosition = field(default_factory=SamplingPosition)
    mode: Mode = "auto"
    merged_bytes: int | None = None  # of effective weights that "auto" may keep; None: as it fits the device
    access: LayerAccess = field(default_factory=LayerAccess)
    _kept: int = 0
    _room: int | None = None
    _least_gain: float = 0.0
    _gains: Gains = field(default=_nothing, repr=False)
    _lent_bytes: float = 0
    _begun: tuple[object, ...] = ()
    lock: Any = field(default_factory=RLock, repr=False)  # held while a layer is prepared, or used as one thread at a time may
    _scratch: dict[tuple[object, ...], Tensor] = field(default_factory=dict, repr=False)

    def begin(self, mode: Mode, network_bytes: int, gains: Gains) -> None:
        """Begin anew: other networks come, of so many bytes in all, on layers that would gain so much by being merged."""
        self.mode, self._kept, self._lent_bytes, self._gains = mode, 0, LENT_SHARE * network_bytes, gains
        self._room, self._least_gain, self._begun = None, 0.0, (mode, self.merged_bytes)

    def is_begun(self, mode: Mode) -> bool:
        """Tell whether what was decided since the beginning would be decided again this way, with the memory that is allowed now."""
        return self._begun == (mode, self.merged_bytes)

    def free(self) -> None:
        """Let the shared memory go, and the layers, which hold their networks."""
        self._scratch.clear()
        self._gains = _nothing

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
        if self.mode == "auto" and device.type != "cpu" and constant and self._keeps(works, size, device, kept):
            return "merged"  # there memory decides: what is kept costs nothing at a call
        if is_cheaper_beside(works, positions, device.type):
            return "functional"
        if self.mode == "functional" or not constant:
            return "recompute"
        return "merged" if self._keeps(works, size, device, kept) else "recompute"

    def _keeps(self, works: Sequence[Cost], size: int, device: torch.device, kept: bool) -> bool:
        """Tell whether there is room for an effective weight, and take it."""
        if self._room is None:  # not before: a model may come to the device with its first use
            self._room = room_on(device, self.merged_bytes)
            self._least_gain = 0.0 if device.type == "cpu" else least_gain(self._gains(device.type), self._room)
        more = 0 if kept else size
        if self._kept + more > self._room or gain(works, size, device.type) < self._least_gain:
            return False
        self._kept += more
        return True

    def scratch(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, slot: int) -> Tensor:
        """Return uninitialised memory that the next layer will use again; slot: 0, 1, ... for several parameters of one layer."""
        count = prod(shape)
        place = (dtype, device, slot)
        known = self._scratch.get(place)
        if known is None or known.numel() < count:
            with torch.inference_mode(False):  # what is made in that mode may only be written to in it
                known = self._scratch[place] = torch.empty(count, dtype=dtype, device=device)
        return known[:count].view(tuple(shape))
