"""What people and other programs wrote beside a network: as values that a tag can have and texts that a page can hold."""

from __future__ import annotations

from typing import Any

from ...prompt.number import LARGEST
from ...wording import storable
from .facts import VERSIONS


def weight(value: Any) -> float:
    """Return the preferred weight of a file's notes; 0 for none, and for one that no tag can have."""
    try:
        found = round(float(value or 0), 4)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return found if abs(found) <= LARGEST else 0.0


def version(value: Any, detected: str) -> str:
    """Return the kind of checkpoint that a file's notes name; the detected one if they have another word, as reForge's `PonyXL`."""
    return str(value) if value in VERSIONS.values() else detected


def showable(value: Any) -> Any:
    """Return a value of a `<file>.json` with texts that a page can hold: a half of a character would cost the whole page."""
    if isinstance(value, dict):
        return {showable(key): showable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [showable(item) for item in value]
    return storable(value) if isinstance(value, str) else value
