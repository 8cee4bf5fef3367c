"""What of a network could not be used, in words: for each reason a key that it keeps out, and how many more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from ....networks import Network
from ....wording import counted

SHOWN = 12  # reasons; the report has every key


def left_out(unmatched: Sequence[tuple[str, str]]) -> list[str]:
    """Return the lines that a tool says of (key, reason) that are not in what it makes; none where everything is."""
    if not unmatched:
        return []
    lines = list(by_reason(unmatched))
    more = [f"  ... and {len(lines) - SHOWN} more reasons (the report lists all)"] if len(lines) > SHOWN else []
    return [f"{counted(len(unmatched), 'key')} not used and left out:", *(f"  {line}" for line in lines[:SHOWN]), *more]


def left_out_of(networks: Iterable[Network]) -> list[str]:
    """Return these lines for several networks, each key with its network's name."""
    return left_out([(f"{network.name}: {key}", reason) for network in networks for key, reason in network.skipped])


def by_reason(unmatched: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield one line for neighbours that are left out for the same reason, as the tensors of a module are."""
    for reason, group in groupby(unmatched, key=lambda item: item[1]):
        keys = [key for key, _ in group]
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        yield f"{keys[0]}{more}: {reason}"
