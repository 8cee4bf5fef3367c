"""What each module could keep, and for how many bytes -> the order in which a file of any size or error takes them in.

Every module has its choices: each rank, and itself as it is. Those worth their bytes lie on the upper hull of (bytes, energy); the steps
along the hulls of all modules, sorted by energy for their bytes, give the least error for every size.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...records import dataclass


@dataclass(frozen=True)
class Choice:
    """One form of a module; energies are squared Frobenius norms."""

    bytes: int
    energy: float  # of the module's change that it keeps
    rank: int | None  # None: as it is


@dataclass(frozen=True)
class Step:
    """A module in another form than before."""

    module: int
    choice: Choice
    bytes: int  # more than before
    energy: float  # more than before


def hull(choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices of which each next one gives less energy for its bytes than the one before, smallest first."""
    found = [Choice(0, 0.0, 0)]
    for choice in sorted(choices, key=lambda one: (one.bytes, -one.energy)):
        if choice.energy <= found[-1].energy:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1]) <= _slope(found[-2], choice):
            found.pop()
        found.append(choice)
    return found[1:]


def steps(modules: Sequence[Sequence[Choice]]) -> list[Step]:
    """Return the steps along the hulls of all modules, those with the most energy for their bytes first."""
    found = []
    for index, choices in enumerate(modules):
        before = Choice(0, 0.0, 0)
        for choice in hull(choices):
            found.append(Step(index, choice, choice.bytes - before.bytes, choice.energy - before.energy))
            before = choice
    return sorted(found, key=lambda step: (-step.energy / max(step.bytes, 1), step.module, step.choice.bytes))


def within_bytes(order: Sequence[Step], room: int) -> dict[int, Choice]:
    """Return module -> form of a file of so many bytes; what does not fit ends its module, smaller ones may still fit."""
    found: dict[int, Choice] = {}
    full: set[int] = set()
    for step in order:
        if step.module in full or step.bytes > room:
            full.add(step.module)
        else:
            found[step.module] = step.choice
            room -= step.bytes
    return found


def within_error(order: Sequence[Step], left: float, allowed: float) -> dict[int, Choice]:
    """Return module -> form of the smallest file that leaves at most so much energy; left: what an empty one leaves."""
    found: dict[int, Choice] = {}
    for step in order:
        if left <= allowed:
            break
        found[step.module] = step.choice
        left -= step.energy
    return found


def _slope(one: Choice, other: Choice) -> float:
    return (other.energy - one.energy) / max(other.bytes - one.bytes, 1)
