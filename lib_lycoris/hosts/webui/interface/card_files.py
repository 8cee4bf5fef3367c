"""What the webui's cards, lists and pasted prompts need to know about network files: the library's facts, in the host's words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ....errors import LycorisError
from ....networks.hashes import short
from ....networks.tag_counts import top_tags
from ....plain_json import parse_json
from ...library.facts import COVERS, UNKNOWN, VERSIONS, NetworkFacts, read_metadata
from ...library.library import Library
from ...library.notes import showable, version, weight

__all__ = [
    "COVERS", "UNKNOWN", "VERSIONS", "Metadata", "NetworkFacts", "facts", "family_in_use", "known_hash", "library", "showable", "top_tags",
    "version", "weight",
]  # fmt: skip


class Metadata(dict[str, Any]):
    """A file's metadata as the host wants it, read when it is asked for: of thousands of cards, hardly one shows it."""

    def __init__(self, path: Path, entries: int) -> None:
        super().__init__()
        self._path = path
        self._entries = entries
        self._content: dict[str, Any] | None = None

    def _whole(self) -> dict[str, Any]:
        if self._content is None:
            try:
                found = read_metadata(self._path) if self._entries else {}
            except (OSError, LycorisError) as error:
                print(f"LyCORIS: the metadata of {self._path} cannot be read: {error}")
                found = {}
            self._content = {key: _parsed(value) for key, value in found.items()}
        return self._content

    def __bool__(self) -> bool:
        return self._entries > 0

    def __len__(self) -> int:
        return self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __contains__(self, key: object) -> bool:
        return key in self._whole()

    def __getitem__(self, key: str) -> Any:
        return self._whole()[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return an entry, or the default."""
        return self._whole().get(key, default)

    def keys(self) -> Any:
        """Return the names of the entries."""
        return self._whole().keys()

    def values(self) -> Any:
        """Return the entries."""
        return self._whole().values()

    def items(self) -> Any:
        """Return names and entries."""
        return self._whole().items()


def library() -> Library:
    """Return the library of scanned networks that the whole extension shares."""
    from ..host import host

    return host().library


def family_in_use() -> str | None:
    """Return the family of the checkpoint that the webui makes images with; None where it cannot be told."""
    from ..host import host

    return host().webui.family_in_use()


def facts(path: Path) -> NetworkFacts:
    """Describe a file by its header; one that is gone says so."""
    try:
        return library().facts(path)
    except OSError as error:
        return NetworkFacts(described=True, broken=f"{path.name} cannot be read: {error.strerror or error}")


def known_hash(path: Path, found: NetworkFacts) -> str:
    """Return the first 12 characters of a file's hash if it is known without reading the whole file, else nothing."""
    from modules import hashes  # type: ignore[import-not-found,unused-ignore]

    bare = path.suffix.lower() == ".safetensors"
    return found.stored_hash or short(hashes.sha256_from_cache(str(path), f"lora/{path.stem}", use_addnet_hash=bare) or "")


def _parsed(value: str) -> Any:
    """Turn a table written as JSON into one, as the host's own reader of metadata does."""
    if not value.startswith("{"):
        return value
    try:
        return parse_json(value)
    except ValueError:
        return value
