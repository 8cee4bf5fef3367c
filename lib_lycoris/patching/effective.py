"""The effective value of a parameter: W + Σ s · ΔW beside the base's, kept from forward to forward or made in shared memory for one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base_state import BaseState
from .edit import Edit
from .workspace import Workspace

COMPUTED_IN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Effective:
    """W + Σ s · ΔW of one parameter, summed in float32 in a fixed order and rounded once."""

    def __init__(self, edits: Sequence[Edit], workspace: Workspace, slot: int = 0) -> None:
        self.edits = sorted(edits, key=lambda edit: edit.order)
        self.workspace = workspace
        self.slot = slot  # tells the parameters of one layer apart, which are needed at the same time
        self._value: nn.Parameter | None = None  # kept
        self._state: BaseState | None = None
        self._made_of: tuple[tuple[object, float], ...] = ()

    def __call__(self, base: Tensor | None, weight: Tensor, keep: bool) -> Tensor | None:
        """Return the effective parameter, and base where every strength is 0; weight: the layer's, whose size a missing bias has.

        keep: whether it stays for the next forward, until the base weight or a strength changes; else it is valid until another is made.
        """
        strengths = [edit.now(self.workspace.progress) for edit in self.edits]
        if not any(strengths):
            return base
        if not keep:
            self._value = None
            return self._parameter(base, strengths, weight, self._lent(base))
        read = [getattr(s.module, s.leaf) for edit in self.edits for s in edit.sources]
        seen = [weight if tensor is None else tensor for tensor in (base, *read)]  # a missing bias follows its weight
        made_of = tuple((edit.algorithm, strength) for edit, strength in zip(self.edits, strengths))
        if self._value is None or made_of != self._made_of or not (self._state and self._state.holds(*seen)):
            self._value = self._parameter(base, strengths, weight, self._memory(base))
            self._state, self._made_of = BaseState(*seen), made_of
        return self._value

    def adopt(self, other: Effective) -> None:
        """Take over what another one of the same parameter keeps: its value if that is still right, else its memory."""
        self._value, self._state, self._made_of = other._value, other._state, other._made_of

    def _lent(self, base: Tensor | None) -> Tensor | None:
        """Return memory of the workspace for one forward, where no graph may need the value later."""
        if base is None or not base.is_contiguous() or torch.is_grad_enabled():
            return None
        return self.workspace.scratch(base.shape, base.dtype, base.device, self.slot)

    def _memory(self, base: Tensor | None) -> Tensor | None:
        """Return the memory of the value before, if it can hold this parameter and no graph may need the old value."""
        value = self._value
        if value is None or base is None or torch.is_grad_enabled() or value.is_inference() != torch.is_inference_mode_enabled():
            return None
        same = value.shape == base.shape and value.dtype == base.dtype and value.device == base.device and value.stride() == base.stride()
        return value.detach() if same else None

    def _parameter(self, base: Tensor | None, strengths: Sequence[float], weight: Tensor, memory: Tensor | None) -> nn.Parameter:
        with torch.no_grad():
            return nn.Parameter(self._sum(base, strengths, weight, memory), requires_grad=False)

    def _sum(self, base: Tensor | None, strengths: Sequence[float], weight: Tensor, memory: Tensor | None) -> Tensor:
        """Return the sum, in the given memory if there is some."""
        dtype = weight.dtype if weight.dtype in COMPUTED_IN else torch.float32
        known = None if base is None else base.detach()
        start = torch.zeros(weight.shape[0], device=weight.device, dtype=dtype) if known is None else known
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        direct = start.dtype == wide and start.is_contiguous()
        total = memory if direct and memory is not None else torch.empty(start.shape, dtype=wide, device=start.device)
        source = start
        for edit, strength in zip(self.edits, strengths):
            if strength:
                edit.add_delta(total, source, strength, known)
                source = total
        if direct:
            return total
        return total.to(start.dtype) if memory is None else memory.copy_(total)
