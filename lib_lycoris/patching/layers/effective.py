"""The effective value of a parameter: W + Σ s · ΔW beside the base's, kept from forward to forward or made in shared memory for one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...networks.summing import add_terms
from ..edit import Edit, in_order
from ..live.base_state import BaseState
from ..live.layer_access import LiveParameter
from ..memory import for_any_mode, lasting
from ..workspace import Workspace


class Effective:
    """W + Σ s · ΔW of one parameter, summed in float32 in a fixed order and rounded once."""

    def __init__(self, parameter: LiveParameter, edits: Sequence[Edit], workspace: Workspace, slot: int = 0) -> None:
        self.live = parameter
        self.edits = in_order(edits)
        self.workspace = workspace
        self.slot = slot  # tells the parameters of one layer apart, which are needed at the same time
        self._value: nn.Parameter | None = None  # kept
        self._state: BaseState | None = None
        self._made_of: tuple[object, ...] = ()
        self._made_at = -1  # the step

    @property
    def reads(self) -> list[LiveParameter]:
        """The live parameters that the value is made of."""
        return [self.live, *(source.parameter for edit in self.edits for source in edit.sources)]

    @property
    def acts(self) -> bool:
        """Whether any strength is not 0 now."""
        return any(edit.now(self.workspace.progress) for edit in self.edits)

    def __call__(self, device: torch.device, dtype: torch.dtype, keep: bool) -> Tensor:
        """Return the effective parameter, computed with in this dtype on this device.

        keep: whether it stays for the next forward, until the base weight or a strength changes; else it is valid until another is made.
        """
        strengths = [edit.now(self.workspace.progress) for edit in self.edits]
        if not keep:
            self._value = None
            lent = None if torch.is_grad_enabled() else self.workspace.scratch(self.live.shape, dtype, device, self.slot)
            return self._parameter(strengths, device, dtype, lent, True)
        made_of = (device, dtype, *self.reads, *((edit.algorithm, strength) for edit, strength in zip(self.edits, strengths)))
        if self._value is None or made_of != self._made_of or not (self._state and self._state.holds()):
            again = not all(isinstance(edit.strength, (int, float)) for edit in self.edits)
            memory = self._memory(device, dtype)
            self._value = None  # where it ends in the middle, its memory holds neither the old value nor the new one
            self._value = self._parameter(strengths, device, dtype, memory, again)
            self._state, self._made_of, self._made_at = BaseState(self.reads), made_of, self.workspace.progress.step
        return self._value

    def start(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return what is added to, and the base value where that is it."""
        base = self.live.filled(device).detach()
        return base, base

    def adopt(self, other: Effective) -> None:
        """Take over what another one of the same parameter keeps: its value if that is still right, else its memory."""
        self._value, self._state, self._made_of, self._made_at = other._value, other._state, other._made_of, other._made_at

    @property
    def is_stale(self) -> bool:
        """Whether a value is kept whose base is no longer what it was made of."""
        return self._value is not None and not (self._state and self._state.holds())

    @property
    def is_of_this_step(self) -> bool:
        """Whether what is kept was made in the step that is now."""
        return self._made_at == self.workspace.progress.step

    def let_go(self) -> Tensor | None:
        """Return the value that is kept, and keep it no longer."""
        value, self._value = self._value, None
        return value

    def _memory(self, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """Return the memory of the value before, if it can hold this parameter and no graph may need the old value."""
        value = self._value
        if value is None or torch.is_grad_enabled():
            return None
        same = tuple(value.shape) == self.live.shape and value.dtype == dtype and value.device == device and value.is_contiguous()
        return value.detach() if same else None

    def _parameter(
        self, strengths: Sequence[float], device: torch.device, dtype: torch.dtype, memory: Tensor | None, again: bool
    ) -> nn.Parameter:  # fmt: skip
        with for_any_mode():
            return nn.Parameter(self._sum(strengths, device, dtype, memory, again), requires_grad=False)

    def _sum(self, strengths: Sequence[float], device: torch.device, dtype: torch.dtype, memory: Tensor | None, again: bool) -> Tensor:
        """Return the sum, in the given memory if there is some."""
        base, known = self.start(device, dtype)
        total = lasting(base.shape, dtype, device) if memory is None else memory
        terms = [edit.term(strength, device, known, again) for edit, strength in zip(self.edits, strengths) if strength]
        add_terms(total, base, terms)
        return total


class Shift(Effective):
    """Σ s · ΔW alone, for a bias: what is to be added beside a layer's output."""

    def start(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return zeros: the base value is read by those edits that need it."""
        return torch.zeros(self.live.shape, device=device, dtype=_wide(dtype)), None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
