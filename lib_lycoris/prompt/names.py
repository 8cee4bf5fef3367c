"""Names of networks that a tag cannot hold as they are: the tag ends at `>`, is split at `:`, and loses blanks at its ends."""

from __future__ import annotations

import re

_ESCAPE = re.compile("%([0-9A-Fa-f]{2})")
_UNWRITABLE = re.compile(r"[:<>\\\t\r\n]|^ | $|%(?=[0-9A-Fa-f]{2})")


def escape_name(name: str) -> str:
    """Return a name as it is written in a tag: `a%3Ab` for `a:b`; most names stay as they are."""
    return _UNWRITABLE.sub(lambda match: f"%{ord(match.group()):02X}", name)


def unescape_name(text: str) -> str:
    """Return the name that a tag means by `%3A` and its like, for where no file has the name as it is written."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
