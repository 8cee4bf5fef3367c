"""Where hostile content gets in: what works there, what is done with it, and the kinds of hostile content."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

SMALL = 1 << 20  # bytes of a hostile file, and what lies beside it, at most
DIGITS = "9" * 16_000
DEEP = "[" * 30_000
Make = Callable[[Path], object]
Use = Callable[[Path], object]


@dataclass(frozen=True)
class Surface:
    """One way in."""

    good: Make  # writes what works, into a folder with one good file of each kind
    uses: Mapping[str, Use]  # what is done with what lies there
    kinds: Mapping[str, Make]  # each makes it hostile in one way
    work: Mapping[str, Use] = field(default_factory=dict)  # that may take its time where it is done

    def with_uses(self, names: Collection[str]) -> Surface:
        """Return the same with some of its uses only."""
        uses, work = ({name: use for name, use in all_of.items() if name in names} for all_of in (self.uses, self.work))
        return replace(self, uses=uses, work=work)
