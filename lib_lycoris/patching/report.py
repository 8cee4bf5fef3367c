"""What applying networks did, in words for the user."""

from __future__ import annotations

from dataclasses import field

from ..errors import readable
from ..networks import Skipped
from ..records import dataclass
from ..wording import counted


@dataclass(frozen=True)
class NetworkReport:
    """One network: how many parameters it changes, and which keys change nothing, and why."""

    name: str
    matched: int  # parameters
    layers: int
    unmatched: tuple[Skipped, ...]
    coverage: str | None = None  # "n of m layers" where some of the file's are left out

    @property
    def sentence(self) -> str | None:
        """Say what was left out; None when nothing was."""
        if not self.unmatched:
            return None
        first = self.unmatched[0]
        part = f"{self.coverage} applied, " if self.coverage else ""
        more = f" and {len(self.unmatched) - 1} more" if len(self.unmatched) > 1 else ""
        keys = f"{counted(len(self.unmatched), 'key')} not used: {readable(first.key)}{more} ({first.reason})"
        return f"{self.name}: {part}changes {counted(self.layers, 'layer')}, {keys}"


@dataclass
class Report:
    """All networks of one application, in the order in which they were given."""

    networks: list[NetworkReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Return one sentence for everything that the user would want to know about."""
        return [text for network in self.networks if (text := network.sentence)] + self.notes
