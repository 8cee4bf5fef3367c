"""What all layers of a model share while networks are on it: the sampling's progress, the way to apply, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import torch
from torch import Tensor

from ..algorithms.layer import Work
from .activation import Progress
from .cost import Way, cheapest

Mode = Literal["auto", "functional", "merged", "recompute"]
MERGED_BYTES = 256 << 20  # of effective weights that "auto" may keep


@dataclass
class Workspace:
    """Decides for each layer how its changes are applied, and lends it memory for an effective weight."""

    progress: Progress = field(default_factory=Progress)
    mode: Mode = "auto"
    merged_bytes: int = MERGED_BYTES
    _kept: int = 0
    _scratch: dict[tuple[torch.dtype, torch.device, bool], Tensor] = field(default_factory=dict, repr=False)

    def begin(self, mode: Mode) -> None:
        """Begin anew: other networks come."""
        self.mode, self._kept = mode, 0

    def free(self) -> None:
        """Let the shared memory go."""
        self._scratch.clear()

    def way(self, works: Sequence[Work], positions: int, weight: Tensor, constant: bool) -> Way:
        """Return how a layer's changes are applied; constant: whether their strengths stay as they are from step to step."""
        if self.mode != "auto":
            return self.mode
        size = weight.numel() * weight.element_size()
        room = constant and self._kept + size <= self.merged_bytes
        found = cheapest(works, positions, weight.device.type, self.progress.steps, room)
        self._kept += size if found == "merged" else 0
        return found

    def scratch(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return uninitialised memory that the next layer will use again."""
        count = prod(shape)
        place = (dtype, device, torch.is_inference_mode_enabled())  # what is made in that mode may only be written to in it
        known = self._scratch.get(place)
        if known is None or known.numel() < count:
            known = self._scratch[place] = torch.empty(count, dtype=dtype, device=device)
        return known[:count].view(tuple(shape))
