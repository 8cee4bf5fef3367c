"""What a case may end in: it works, or somebody is told one sentence that can be shown as it is."""

from __future__ import annotations

LONGEST = 1600  # characters of a sentence


class Unclean(Exception):
    """A case led to something else than success or one sentence."""


def wrong_with(text: str) -> str | None:
    """Say what is wrong with a sentence; None for one that a user can be shown."""
    if not text or "\n" in text or len(text) > LONGEST or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in text):
        return f"no sentence to show: {text[:200]!r}"
    return None


def check_sentence(text: str) -> None:
    """Raise Unclean for a text that cannot be shown as a sentence."""
    if said := wrong_with(text):
        raise Unclean(said)
