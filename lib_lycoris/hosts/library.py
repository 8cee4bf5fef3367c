"""The network files in some folders, found by the names that tags use. Only headers are read, and only when an alias is needed."""
from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import HostError

EXTENSIONS = (".safetensors", ".pt", ".ckpt")
HEADER_LIMIT = 100_000_000  # bytes; the safetensors format allows no larger header


@dataclass(frozen=True)
class NetworkFile:
    """One file: its path, and that path below its folder without extension, with forward slashes."""

    path: Path
    place: str

    @property
    def name(self) -> str:
        """The file name without extension."""
        return self.place.rsplit("/", 1)[-1]


class Library:
    """Network files of several folders; a file that comes and goes is seen by the next :meth:`refresh`."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self.files: tuple[NetworkFile, ...] = ()
        self._aliases: dict[str, list[NetworkFile]] | None = None
        self._headers: dict[Path, tuple[int, str]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look at the folders again."""
        found = {file.path: file for folder in self.folders for file in _walk(folder)}
        self.files = tuple(sorted(found.values(), key=lambda file: (file.place.lower(), str(file.path))))
        self._aliases = None

    def names(self) -> list[str]:
        """Return one name a file that a tag can use: the file name, or the place below its folder where that is not unique."""
        counts: dict[str, int] = {}
        for file in self.files:
            counts[file.name.lower()] = counts.get(file.name.lower(), 0) + 1
        return sorted({f.name if counts[f.name.lower()] == 1 else f.place for f in self.files}, key=str.lower)

    def find(self, name: str) -> NetworkFile:
        """Return the file that a tag means: file name, place below the folder, or the name its trainer gave it.

        Raises HostError if there is none, with the nearest names, or if several fit equally.
        """
        wanted = _plain(name)
        found = self._matches(wanted)
        if not found:
            self.refresh()
            found = self._matches(wanted)
        if len(found) == 1:
            return found[0]
        if found:
            places = ", ".join(f'"{place}"' for place in sorted({file.place for file in found}))
            raise HostError(f'"{name}" is the name of {len(found)} network files; write the folder too: {places}')
        raise HostError(self._missing(name, wanted))

    def _matches(self, wanted: str) -> list[NetworkFile]:
        for same in (str, str.lower):
            placed = [file for file in self.files if same(file.place) == same(wanted)]
            if placed:
                return placed[:1]  # the same place in two folders: the first folder's
            named = [file for file in self.files if same(file.name) == same(wanted)]
            if named:
                return named
        return self._by_alias().get(wanted.lower(), [])

    def _by_alias(self) -> dict[str, list[NetworkFile]]:
        aliases = self._aliases
        if aliases is None:
            aliases = {}  # put in its place when it is whole: a webui asks from several threads
            for file in self.files:
                alias = self._alias(file.path)
                if alias:
                    aliases.setdefault(alias.lower(), []).append(file)
            self._aliases = aliases
        return aliases

    def _alias(self, path: Path) -> str:
        try:
            stamp = path.stat().st_mtime_ns
            if self._headers.get(path, (None, ""))[0] != stamp:
                self._headers[path] = (stamp, _header(path).get("ss_output_name") or "")
        except (OSError, ValueError):
            return ""  # a file that cannot be read says so when it is loaded; here it only has no second name
        return self._headers[path][1]

    def _missing(self, name: str, wanted: str) -> str:
        if not self.files:
            where = " or ".join(str(folder) for folder in self.folders)
            reason = f"{where} holds no network file" if where else "no folder with network files was given"
            return f'there is no network called "{name}": {reason}'
        near = difflib.get_close_matches(wanted.lower(), [n.lower() for n in self.names()], n=3, cutoff=0.5)
        nearest = [n for n in self.names() if n.lower() in near]
        verb = "name is" if len(nearest) == 1 else "names are"
        hint = f"; the nearest {verb} {', '.join(nearest)}" if nearest else f" among {len(self.files)} network files"
        return f'there is no network called "{name}"{hint}'


def _plain(name: str) -> str:
    text = name.strip().replace("\\", "/")
    return next((text[: -len(e)] for e in EXTENSIONS if text.lower().endswith(e)), text)


def _walk(folder: Path) -> Iterator[NetworkFile]:
    seen: set[str] = set()
    for place, inner, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        inner[:] = [] if real in seen else sorted(name for name in inner if not name.startswith("."))
        if real in seen:
            continue
        seen.add(real)
        for name in names:
            path = Path(place, name)
            if path.suffix.lower() in EXTENSIONS and not name.startswith("."):
                yield NetworkFile(path, path.relative_to(folder).with_suffix("").as_posix())


def _header(path: Path) -> dict[str, str]:
    """Return the metadata in a safetensors header; empty for the older formats, which have none."""
    if path.suffix.lower() != ".safetensors":
        return {}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > HEADER_LIMIT:
            raise ValueError(f"{path} has no safetensors header")
        found = json.loads(file.read(size))
    metadata = found.get("__metadata__", {}) if isinstance(found, dict) else {}
    return metadata if isinstance(metadata, dict) else {}
