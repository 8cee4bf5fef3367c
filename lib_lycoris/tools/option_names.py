"""Names of options in sentences: a tool writes `dim` or `algorithm=lora`, and whoever shows the sentence spells it as its caller does.

Python and the HTTP API call an option by this very name; the command line has a flag for it, a page a field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from .declaration import Option

_WRITTEN = re.compile(r"`([a-z]\w*)(?:=([^`\n]*))?`")


def spelled(text: str, options: Iterable[Option], spell: Callable[[Option], str]) -> str:
    """Return a sentence with the names of these options spelled anew, and a value behind the name; of one name the first option counts."""
    known: dict[str, Option] = {}
    for option in options:
        known.setdefault(option.name, option)

    def one(found: re.Match[str]) -> str:
        option = known.get(found[1])
        if option is None:
            return found[0]
        return spell(option) if found[2] is None else f"{spell(option)} {found[2]}"

    return _WRITTEN.sub(one, text)


def as_flag(option: Option) -> str:
    """Return an option as it is typed on the command line."""
    return option.flags[0]


def as_field(option: Option) -> str:
    """Return an option as the field of a page that it is."""
    return f'"{option.title}"'
