"""The network files in some folders, found by the names that tags use; what is inside them is read in the background and kept."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from ...errors import HostError
from ...networks.reading.folder import EXTENSIONS, SAFETENSORS, SAVED
from ...prompt import escape_name, unescape_name
from ...records import dataclass
from ...wording import storable
from .facts import Describer, NetworkFacts
from .index import NAME, Index
from .scan import Scan

Table = dict[str, list["NetworkFile"]]


@dataclass(frozen=True)
class NetworkFile:
    """One file: where it is, and where below its folder, without extension and with forward slashes.

    The network that PEFT or diffusers saved into a folder of its own has the folder's place.
    """

    file: str
    place: str

    @property
    def path(self) -> Path:
        """The file's path."""
        return Path(self.file)

    @property
    def name(self) -> str:
        """The file name without extension."""
        return self.place.rsplit("/", 1)[-1]


class Listing:
    """The files at one moment, with every way to find one; its tables are made before the scan keeps the interpreter busy."""

    def __init__(self, files: tuple[NetworkFile, ...], scan: Scan) -> None:
        self.files = files
        self.scan = scan  # of these files
        self._tables: tuple[Table, Table, Table, Table] = ({}, {}, {}, {})  # by place, name, and both in small letters
        names = [file.name for file in files]
        for file, name in zip(files, names, strict=True):
            stem = file.path.stem
            if stem != name and stem in SAVED:
                self._tables[0].setdefault(f"{file.place}/{stem}", []).append(file)
            for table, key in zip(self._tables, (file.place, name, file.place.lower(), name.lower()), strict=True):
                table.setdefault(key, []).append(file)
        counts = self._tables[3]
        chosen: dict[str, NetworkFile] = {}
        for file, name in zip(files, names, strict=True):
            chosen.setdefault(name if len(counts[name.lower()]) == 1 else file.place, file)
        self.named: Mapping[str, NetworkFile] = dict(sorted(chosen.items(), key=lambda item: item[0].lower()))

    @cached_property
    def _aliases(self) -> Table:
        found: Table = {}
        for file, alias in zip(self.files, self.scan.aliases(), strict=True):
            if alias:
                found.setdefault(alias.lower(), []).append(file)
        return found

    def find(self, wanted: str) -> list[NetworkFile]:
        """Return the files of a place or a name, as it is written first, then whatever the case; else those of an alias."""
        places, names, lower_places, lower_names = self._tables
        for text, placed, named in ((wanted, places, names), (wanted.lower(), lower_places, lower_names)):
            if text in placed:
                return placed[text][:1]  # the same place in two folders: the first folder's; twice in one: the safetensors file
            if text in named:
                return named[text]
        return self._aliases.get(wanted.lower(), [])


class Library:
    """Network files of several folders; a file that comes and goes is seen by the next :meth:`refresh`."""

    def __init__(self, folders: Sequence[Path], data: Path | None = None) -> None:
        """Look at the folders; what is learnt of the files is kept in the folder ``data``, if one is given."""
        self.folders = tuple(dict.fromkeys(Path(os.path.abspath(folder)) for folder in folders))  # one that is named twice is one
        self._index = Index(data / NAME if data is not None else None)
        self._describe = Describer()
        self._background: tuple[bool, ...] = ()  # how scans are started, once the first was
        self._listing = Listing((), Scan((), (), self._index, self._describe))
        self.refresh()

    def refresh(self) -> None:
        """Look at the folders again."""
        found = {file.file: file for folder in self.folders for file in _walk(folder)}
        files = tuple(sorted(found.values(), key=_order))
        self._index.forget_broken()
        self._listing.scan.stop()
        self._listing = Listing(files, Scan([file.file for file in files], self.folders, self._index, self._describe))
        if self._background:
            self._listing.scan.start(*self._background)

    def scan(self, describe: bool = True) -> None:
        """Read in the background what the files are called and, to ``describe`` them, what they hold; again after each :meth:`refresh`."""
        self._background = (describe,)
        self._listing.scan.start(describe)

    def wait(self) -> None:
        """Return when all that is known of the files is there, if a scan was started."""
        self._listing.scan.wait()

    @property
    def files(self) -> tuple[NetworkFile, ...]:
        """The files as of the last look, sorted by place."""
        return self._listing.files

    @property
    def named(self) -> Mapping[str, NetworkFile]:
        """One name a file that a tag can use, sorted, with the file."""
        return self._listing.named

    def names(self) -> list[str]:
        """Return one name a file that a tag can use: the file name, or the place below its folder where that is not unique."""
        return list(self.named)

    def facts(self, path: Path) -> NetworkFacts:
        """Return what the header of a file tells, read now if the scan has not come to it. Raises OSError for a file that is gone."""
        found = self._listing.scan.facts(str(path))
        if found is None:
            path.stat()
            raise FileNotFoundError(2, "the file was taken away", str(path))
        return found

    def find(self, name: str) -> NetworkFile:
        """Return the file that a tag means: file name, place below the folder, or the name its trainer gave it.

        A name that only a trainer gave waits until the scan has come to know all of them. Raises HostError if there is no such file,
        with the nearest names, or if several fit equally.
        """
        wanted = _plain(name)
        found = self._found(name, wanted)
        if not found:
            self.refresh()
            found = self._found(name, wanted)
        if len(found) == 1:
            return found[0]
        if found:
            places = ", ".join(f'"{escape_name(place)}"' for place in sorted({file.place for file in found}))
            raise HostError(f'"{name}" is the name of {len(found)} network files; write the folder too: {places}')
        raise HostError(self._missing(name, wanted))

    def _found(self, name: str, wanted: str) -> list[NetworkFile]:
        """Return the files of a name as it is written, else of what its escapes mean."""
        return self._listing.find(wanted) or self._listing.find(unescape_name(name.strip()))

    def _missing(self, name: str, wanted: str) -> str:
        if not self.files:
            where = " or ".join(str(folder) for folder in self.folders)
            reason = f"{where} holds no network file" if where else "no folder with network files was given"
            return f'there is no network called "{name}": {reason}'
        near = difflib.get_close_matches(wanted.lower(), [n.lower() for n in self.names()], n=3, cutoff=0.5)
        nearest = [n for n in self.names() if n.lower() in near]
        verb = "name is" if len(nearest) == 1 else "names are"
        hint = f"; the nearest {verb} {', '.join(map(escape_name, nearest))}" if nearest else f" among {len(self.files)} network files"
        return f'there is no network called "{name}"{hint}'


def _order(file: NetworkFile) -> tuple[str, str, bool, str]:
    bare, extension = os.path.splitext(file.file)
    return file.place.lower(), bare, extension.lower() != SAFETENSORS, file.file


def _plain(name: str) -> str:
    text = name.strip().replace("\\", "/")
    return next((text[: -len(e)] for e in EXTENSIONS if text.lower().endswith(e)), text)


def _walk(folder: Path) -> Iterator[NetworkFile]:
    seen, places = set[str](), set[str]()
    for place, inner, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        inner[:] = [] if real in seen else sorted(name for name in inner if not name.startswith("."))
        if real in seen:
            continue
        seen.add(real)
        relative = Path(place).relative_to(folder)
        below = f"{relative.as_posix()}/" if relative.parts else ""
        files = [(name, *os.path.splitext(name)) for name in names if not name.startswith(".")]
        found = {name: bare for name, bare, extension in files if extension.lower() in EXTENSIONS}
        (stem,) = stems if len(stems := set(found.values())) == 1 else ("",)
        alone = stem in SAVED and relative.parts and relative.as_posix().lower() not in places
        for name, bare in found.items():
            where = relative.as_posix() if alone else below + bare
            places.add(where.lower())
            yield NetworkFile(os.path.join(place, name), storable(where))
