"""One network as it is asked for: its strength on every parameter, and how many of its ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Union

from ..errors import ModelMismatchError
from ..networks import Network
from ..records import dataclass

LARGEST_STRENGTH = 1e6  # far beyond what leaves an image; a product of it still is a number


class Varying(Protocol):
    """A strength that changes while an image is made."""

    def value(self, step: int, steps: int) -> float:
        """Return the strength at a 0-based step of so many."""
        ...


Strength = Union[float, Varying]


@dataclass
class SamplingPosition:
    """Where the sampling is; all strengths that vary look here."""

    step: int = 0
    steps: int = 1


@dataclass(frozen=True, eq=False)
class Activation:
    """A network, and canonical parameter name -> strength: 0 is off, 1 what was trained, W + s·ΔW at every other s."""

    network: Network
    strength: Callable[[str], Strength]
    ranks: int | None = None  # the first so many ranks of what can be cut (DyLoRA); None or 0: all


def usable(strength: Strength, network: str) -> Strength:
    """Return a strength. Raises ModelMismatchError for a number that would make every value infinite, or that is none."""
    if isinstance(strength, (int, float)) and not abs(strength) <= LARGEST_STRENGTH:
        raise ModelMismatchError(f"a strength of {str(strength)[:20]} for {network} is no usable number; give one such as 0.7")
    return strength


def at(strength: Strength, progress: SamplingPosition) -> float:
    """Return a strength as it is at this point of the sampling."""
    return float(strength) if isinstance(strength, (int, float)) else strength.value(progress.step, progress.steps)
