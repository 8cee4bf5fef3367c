"""Invalidates the webui's cond cache, which is keyed by tag text, when the same text now has a different effect."""

from __future__ import annotations

from typing import Any

REMEMBERED = 64  # texts; the webui itself keeps one a cache
CACHES = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc")


class Conds:
    """What each text of tags meant when it was last used."""

    def __init__(self) -> None:
        self._meant: dict[tuple[bool, tuple[str, ...]], str] = {}
        self.forget = False  # drop the caches at the next use, whatever the tags say

    def check(self, p: Any, hires: bool, texts: tuple[str, ...], digest: str) -> None:
        """Drop the webui's caches if these tags meant something else before: a preset, a file, a setting or a seed has changed."""
        before = self._meant.pop((hires, texts), None)
        self._meant[(hires, texts)] = digest
        while len(self._meant) > REMEMBERED:
            del self._meant[next(iter(self._meant))]
        if self.forget or (before is not None and before != digest):
            self.drop(p)

    def drop(self, p: Any) -> None:
        """Have the text encoders run again for this run."""
        self.forget = False
        for name in CACHES:
            cache = getattr(p, name, None)
            if cache:
                cache[0] = None

    def without_networks(self, p: Any) -> None:
        """Take notice of a run whose tags do nothing: for the webui its results and those of the same tags at work are the same."""
        self.drop(p)
        self.forget = True
