"""What a layer does with inputs of one kind, decided once: functions without a choice left in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...algorithms import Bypass, LowRank, Stacked
from ...records import dataclass
from ..edit import Edit
from ..live.base_state import BaseState

Run = Callable[..., Any]  # (the layer's own forward, *args, **kwargs) -> what the changed layer gives
Add = Callable[[Tensor, Tensor], Tensor]  # (input, output) -> output with the changes
Step = Callable[[Tensor, Tensor, Tensor], None]  # adds one change to (total), given input and output


@dataclass(frozen=True)
class Call:
    """A decision, and what it rests on."""

    run: Run
    base: BaseState | None
    circumstances: tuple[object, ...]

    def holds(self, circumstances: tuple[object, ...]) -> bool:
        """Tell whether it is still right."""
        return circumstances == self.circumstances and (self.base is None or self.base.holds())


def unchanged(inner: Run, *args: Any, **kwargs: Any) -> Any:
    """Return what the layer gives of itself."""
    return inner(*args, **kwargs)


def one_at_a_time(lock: Any, run: Run) -> Run:
    """Return the same for one thread at a time."""

    def locked(inner: Run, *args: Any, **kwargs: Any) -> Any:
        with lock:
            return run(inner, *args, **kwargs)

    return locked


def with_bypass(add: Add, shift: Tensor | None, batch: bool = True) -> Run:
    """Return the layer's own output with changes of the weight and of the bias added; batch: whether inputs have that axis."""

    def run(inner: Run, input: Tensor) -> Tensor:  # torch's name for it
        y: Tensor = inner(input)
        y = add(input, y) if batch else add(input[None], y[None])[0]
        return y if shift is None else y + shift.to(y.dtype)

    return run


def adding(
    now: Sequence[tuple[Edit, float]], acts: Sequence[Bypass], bias: Tensor | None, axis: int, stacked: Callable[[list[LowRank]], Stacked]
) -> Add:
    """Return what adds changes to an output, in its own memory if nothing else needs it.

    now: edits with strengths, acts: their forms; bias: the layer's, shaped to stand beside the output; axis: the output's channels.
    """
    thin = {i for i, act in enumerate(acts) if now[i][0].whole and isinstance(act, LowRank) and act.core is None}
    steps: list[Step] = []
    if len(thin) > 1:
        steps.append(_stack(stacked([acts[i] for i in sorted(thin)]), [now[i][1] for i in sorted(thin)]))  # type: ignore[misc]
    for i, ((edit, strength), act) in enumerate(zip(now, acts)):
        offset = bias if edit.algorithm.reads_output else None
        if not edit.whole:
            steps.append(partial(_add_rows, edit, act, offset, axis, strength))
        elif i not in thin or len(thin) == 1:
            steps.append(_whole(act, offset, strength))
    copies = len(now) > 1 and any(edit.algorithm.reads_output for edit, _ in now)

    def add(x: Tensor, y: Tensor) -> Tensor:
        total = y.clone() if copies or (torch.is_grad_enabled() and y.requires_grad) else y
        for step in steps:
            step(total, x, y)
        return total

    return add


def _stack(stack: Stacked, strengths: Sequence[float]) -> Step:
    return lambda total, x, y: stack.add_to(total, x, strengths)


def _whole(act: Bypass, bias: Tensor | None, strength: float) -> Step:
    add_to = act.add_to
    return lambda total, x, y: add_to(total, x, y, bias, strength)


def _add_rows(edit: Edit, act: Bypass, bias: Tensor | None, axis: int, strength: float, total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add a change of some of the output's channels."""
    delta = act(x, _rows_of(y if bias is None else y - bias, edit, axis))
    for mine, its in edit.pieces:
        part = delta.narrow(axis, its.start, its.stop - its.start)
        total.narrow(axis, mine.start, mine.stop - mine.start).add_(part.to(total.dtype), alpha=strength)


def _rows_of(plain: Tensor, edit: Edit, axis: int) -> Tensor:
    """Return the part of the output that the algorithm's rows make."""
    if len(edit.sources) > 1:
        return plain  # computed anew from all sources by the change itself
    length = edit.sources[0].rows.stop - edit.sources[0].rows.start
    ordered = sorted(edit.pieces, key=lambda piece: piece[1].start)
    parts = [plain.narrow(axis, mine.start, mine.stop - mine.start) for mine, _ in ordered]
    return parts[0] if len(parts) == 1 and length else torch.cat(parts, axis)
