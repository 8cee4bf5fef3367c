"""What a page shows of each network file: its header's facts, its preview, and what the user wrote into the webui's own `<file>.json`."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...atomic import write_text
from ...demo import NETWORKS
from ...errors import HostError
from ...plain_json import json_text, read_json
from ..protocol import NetworkCard
from .facts import NetworkFacts
from .library import Library, NetworkFile
from .notes import showable, weight

PREVIEWS = tuple(f"{middle}.{kind}" for middle in (".preview", "") for kind in ("png", "jpg", "jpeg", "webp"))  # as the webui looks
FIELDS = {  # of a card -> key of the webui's file; the favourite is ours: the webui keeps keys that it does not know
    "notes": "notes", "preferred": "preferred weight", "triggers": "activation text", "favourite": "lycoris favourite",
}  # fmt: skip
MOST_TRIGGERS = 12
FRESH = 5.0  # seconds that a list of cards is used: each letter of a search asks for it
SAMPLE = 4096  # bytes at each of the places that are compared
Said = Mapping[str, Any]


class LibraryCards:
    """The cards of a library; headers come from its index, notes are read again when their file changed."""

    def __init__(self, library: Callable[[], Library]) -> None:
        self._library = library
        self._notes: dict[str, tuple[int, Said]] = {}
        self._latest: tuple[object, float, Sequence[NetworkCard]] | None = None  # of which listing, since when
        self._samples: dict[tuple[str, float, int], str] = {}

    def cards(self) -> Sequence[NetworkCard]:
        """Return one card for each name that a tag can use, sorted by name; a file that is gone has none."""
        library = self._library()
        if self._latest is not None and self._latest[0] is library.files and time.monotonic() - self._latest[1] < FRESH:
            return self._latest[2]
        folders: dict[str, dict[str, int]] = {}
        found = (self._card(library, name, file, folders) for name, file in library.named.items())
        cards = self._with_contents([card for card in found if card is not None])
        self._latest = (library.files, time.monotonic(), cards)
        return cards

    def _with_contents(self, cards: list[NetworkCard]) -> list[NetworkCard]:
        """Return the cards with what tells their contents apart, for files of one size: the trainer's hash, else some of their bytes."""
        sizes = Counter(card.size for card in cards)
        return [replace(card, content=f"{card.size} {self._content(card)}") if sizes[card.size] > 1 else card for card in cards]

    def _content(self, card: NetworkCard) -> str:
        if card.hash:
            return card.hash
        key = (str(card.path), card.changed, card.size)
        if key not in self._samples:
            self._samples[key] = _sampled(card.path, card.size)
        return self._samples[key]

    def card(self, name: str) -> NetworkCard:
        """Return one card. Raises HostError if no file has this name."""
        library = self._library()
        file = library.named.get(name)
        card = None if file is None else self._card(library, name, file, {})
        if card is None:
            raise HostError(f'there is no network called "{name}"; look for new files')
        return card

    def keep(self, name: str, changes: Mapping[str, Any]) -> None:
        """Write fields of a card into the file of notes; its other keys stay. Raises HostError if that fails."""
        path = self.card(name).path.with_suffix(".json")
        if path.parent == NETWORKS:
            raise HostError("the demo's networks take no notes; copy the file into your own networks first")
        said: Any = {}
        if path.exists():
            try:
                said = read_json(path)
            except (OSError, ValueError):
                said = None
            if not isinstance(said, dict):
                raise HostError(f"{path.name} is there but holds no table of notes; move it away to save yours")
        self._latest = None
        said.update({FIELDS[field]: value for field, value in changes.items()})
        try:
            write_text(path, json_text(said, indent=4))
        except OSError as error:
            raise HostError(f"{path.name} cannot be written: {error.strerror or error}") from error

    def _card(self, library: Library, name: str, file: NetworkFile, folders: dict[str, dict[str, int]]) -> NetworkCard | None:
        try:
            facts = library.facts(file.path)
        except OSError:
            return None
        parent, bare = os.path.dirname(file.file), os.path.splitext(os.path.basename(file.file))[0]
        if parent not in folders:
            folders[parent] = _listing(parent)
        inside = folders[parent]
        said = self._said(os.path.join(parent, f"{bare}.json"), inside.get(f"{bare}.json"))
        preview = next((bare + end for end in PREVIEWS if bare + end in inside), None)
        return _made(name, file, facts, said, None if preview is None else Path(parent) / preview)

    def _said(self, path: str, changed: int | None) -> Said:
        """Return what the user wrote; nothing for a file that is not there or holds something else."""
        if changed is None:
            return {}
        known = self._notes.get(path)
        if known is None or known[0] != changed:
            try:
                found = read_json(Path(path))
            except (OSError, ValueError):
                found = {}
            known = self._notes[path] = (changed, showable(found) if isinstance(found, dict) else {})
        return known[1]


def _sampled(path: Path, size: int) -> str:
    """Return a hash of some bytes of a file, the last ones among them; its path where it cannot be read, which no other file has."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            for place in (size // 3, size // 2, size - SAMPLE):
                file.seek(max(0, place))
                digest.update(file.read(SAMPLE))
    except OSError:
        return str(path)
    return digest.hexdigest()


def _listing(folder: str) -> dict[str, int]:
    """Return the names in a folder that may be previews or notes, with when they were changed."""
    ends = (".json", ".png", ".jpg", ".jpeg", ".webp")
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_mtime_ns for entry in entries if entry.name.lower().endswith(ends)}
    except OSError:
        return {}


def _made(name: str, file: NetworkFile, facts: NetworkFacts, said: Said, preview: Path | None) -> NetworkCard:
    text = str(said.get("activation text") or facts.listed.get("modelspec.trigger_phrase") or "")
    version = str(said.get("sd version") or "")
    return NetworkCard(
        name=name, path=file.path, folder=file.place.rpartition("/")[0], base=version if version not in ("", "Unknown") else facts.version,
        algorithms=tuple(facts.algorithms), tags=facts.tags, changed=facts.stamp[0] / 1e9, size=facts.stamp[1], hash=facts.stored_hash,
        triggers=tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))[:MOST_TRIGGERS],
        title=facts.listed.get("modelspec.title") or facts.alias, broken=facts.broken, preview=preview,
        notes=str(said.get("notes") or ""), favourite=said.get(FIELDS["favourite"]) is True,
        preferred=weight(said.get("preferred weight")) or None,
    )  # fmt: skip
