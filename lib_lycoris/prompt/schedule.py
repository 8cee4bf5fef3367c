"""How a strength moves over the sampling steps: constant, keyframes, switched on and off."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import replace

from ..errors import PromptError
from ..records import dataclass
from .number import Moment, format_number, parse_number, quoted, step_of

Point = tuple[float, float]  # (position, value)
MOST_POINTS = 200  # keyframes: more than any sampling has use for


@dataclass(frozen=True)
class Schedule:
    """A strength over the steps of one pass; two schedules of the same effect compare equal.

    Build one with `constant`, `through` or `parse`. `points` lie in order of position: linear between them, flat
    outside. With every position <= 1 they are fractions of (steps - 1), else 0-based steps. `start` and `stop` are
    1-based steps or fractions of the steps: zero before step `start` and from step `stop`. `during` says for each step of
    the pass whether it is on at all.
    """

    points: tuple[Point, ...]
    start: Moment | None = None
    stop: Moment | None = None
    during: tuple[bool, ...] | None = None

    @classmethod
    def constant(cls, value: float) -> Schedule:
        """Return the schedule that always has this value."""
        return cls(((0.0, float(value) + 0.0),))

    @classmethod
    def through(cls, points: Iterable[Point], start: Moment | None = None, stop: Moment | None = None) -> Schedule:
        """Return the schedule through (position, value) points, reduced to a constant where it is one."""
        ordered = tuple(sorted(((float(p), float(v) + 0.0) for p, v in points), key=lambda point: point[0]))
        if stop is not None and stop in (0, 1):
            return cls.constant(0.0)
        if len({value for _, value in ordered}) == 1:
            ordered = ((0.0, ordered[0][1]),)
        if ordered == ((0.0, 0.0),):
            return cls(ordered)
        return cls(ordered, None if start in (0, 1) else start, stop)

    @classmethod
    def parse(cls, text: str, what: str = "a strength") -> Schedule:
        """Read `0.7` or `0@0,1@0.5` (`~` for `@`, `;` for `,`); raise PromptError naming `what` on bad input."""
        pieces = re.split("[,;]", text)
        if len(pieces) > MOST_POINTS:
            raise PromptError(f"{quoted(text)} has {len(pieces)} values of {what}; give {MOST_POINTS} keyframes at most")
        points = [_parse_point(piece, what) for piece in pieces]
        if len(points) > 1 and not re.search("[@~]", text):
            raise PromptError(f"{quoted(text)} has several values of {what} and no positions; write one, or 0@0,1@0.5 for keyframes")
        if not re.search("[@~]", re.split("[,;]", text)[0]):
            return cls.constant(points[0][1])
        return cls.through(points)

    def value(self, step: int, steps: int) -> float:
        """Return the strength at 0-based `step` of `steps`."""
        if self.during is not None and not self.during[min(step, len(self.during) - 1)]:
            return 0.0
        if self.start is not None and step < step_of(self.start, steps) - 1:
            return 0.0
        if self.stop is not None and step >= step_of(self.stop, steps) - 1:
            return 0.0
        if len(self.points) == 1:
            return self.points[0][1]
        fractions = all(position <= 1 for position, _ in self.points)
        return self._between(step / max(steps - 1, 1) if fractions else float(step))

    def _between(self, position: float) -> float:
        after = bisect_right([p for p, _ in self.points], position)
        if after == 0:
            return self.points[0][1]
        if after == len(self.points):
            return self.points[-1][1]
        (left, low), (right, high) = self.points[after - 1], self.points[after]
        return low + (high - low) * (position - left) / (right - left)

    @property
    def changes(self) -> bool:
        """Whether the value can differ from step to step."""
        return len(self.points) > 1 or self.start is not None or self.stop is not None or self.during is not None

    def times(self, ratio: float) -> Schedule:
        """Return this schedule with every value multiplied by a ratio."""
        return Schedule.through(((p, v * ratio) for p, v in self.points), self.start, self.stop).only_during(self.during)

    def switched(self, start: Moment | None, stop: Moment | None) -> Schedule:
        """Return this schedule on from step `start` and off from step `stop`: 1-based, or fractions of the steps."""
        return Schedule.through(self.points, start, stop).only_during(self.during)

    def only_during(self, on: tuple[bool, ...] | None) -> Schedule:
        """Return this schedule on at these steps of the pass only, one truth value for each; None for all of them."""
        if on is None or all(on) or not any(value for _, value in self.points):
            return self
        return replace(self, during=on) if any(on) else Schedule.constant(0.0)

    def format(self) -> str:
        """Write the values as they are typed in a tag; `start` and `stop` are keys of their own there."""
        if len(self.points) == 1:
            return format_number(self.points[0][1])
        return ",".join(f"{format_number(v)}@{format_number(p)}" for p, v in self.points)


ONE = Schedule.constant(1.0)


def _parse_point(piece: str, what: str) -> Point:
    value, *position = re.split("[@~]", piece)
    if len(position) > 1:
        raise PromptError(f"{quoted(piece)} is not a keyframe of {what}; write VALUE@POSITION, such as 0.7@0.5")
    # A later keyframe without a position stands at the end, as it does for the extension people know this from.
    where = parse_number(position[0], f"a position in {what}") if position else 1.0
    if where < 0:
        raise PromptError(f"{quoted(piece)} has a negative position; positions count from 0")
    return where, parse_number(value, what)
