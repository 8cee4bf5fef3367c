"""Conditioning by step: where networks come and go during a pass, each part of it has what the text encoders give with those then on.

The webui encodes a prompt once for each of its own changes (`[a:b:0.5]`), all before the first step. Here that is done once for each state
of the networks too, and the results are joined to one schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

GoTo = Callable[[int, int], None]  # a step, from 0, of so many
Span = tuple[int, int]  # first and last step


class TextSteps:
    """The spans of the pass that is being prepared, and the webui's encoder of prompts with them in mind."""

    def __init__(self, go_to: GoTo, is_silent: Callable[[], bool]) -> None:
        self._go_to, self._is_silent = go_to, is_silent
        self.forget()

    def prepare(self, spans: Sequence[Span], steps: int, multiplier: int) -> None:
        """Encode the prompts to come for these spans; the multiplier is of model calls a step, in which the webui counts."""
        self._spans, self._steps, self._multiplier = list(spans), steps, multiplier

    def forget(self) -> None:
        """Encode as the webui does."""
        self.prepare((), 1, 1)

    def around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return the webui's `prompt_parser.get_learned_conditioning` with one more reason for another conditioning."""

        def get_learned_conditioning(*args: Any, **kwargs: Any) -> Any:
            if self._is_silent() or len(self._spans) < 2:
                return original(*args, **kwargs)
            try:
                parts = [(span, self._encoded(span, original, args, kwargs)) for span in self._spans]
            finally:
                self._go_to(0, self._steps)
            last = self._spans[-1][1]
            calls = [(first * self._multiplier, None if end == last else (end + 1) * self._multiplier - 1) for (first, end), _ in parts]
            return [joined(calls, schedules) for schedules in zip(*(result for _, result in parts))]

        return get_learned_conditioning

    def _encoded(self, span: Span, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._go_to(span[0], self._steps)
        return original(*args, **kwargs)


def joined(calls: Sequence[tuple[int, int | None]], schedules: Sequence[Sequence[Any]]) -> list[Any]:
    """Return one schedule of conditionings that each hold up to their ``end_at_step``: of each given one the part for its calls."""
    found = []
    for (first, last), schedule in zip(calls, schedules):
        begin = 0
        for entry in schedule:
            if entry.end_at_step >= first and (last is None or begin <= last):
                found.append(entry if last is None else entry._replace(end_at_step=min(entry.end_at_step, last)))
            begin = entry.end_at_step + 1
    return found
