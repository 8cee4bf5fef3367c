"""Where the app keeps things: results among the user's documents, the rest in the cache."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from ...demo import CHECKPOINT
from ...records import dataclass

NAME = "LyCORIS"
LEFT = ("networks", "checkpoints", "lbwpresets.txt")  # what older versions wrote into the cache, and people want to keep


def data_folder() -> Path:
    """Return the platform's folder for data that a program can make again."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "sd-webui-lycoris"


def kept_folder() -> Path:
    """Return the folder for what people made: in their documents."""
    return documents() / NAME


def own_networks(kept: Path) -> Path:
    """Return where the app's tools put networks, in a folder of results; it may not be there yet."""
    return kept / "networks"


def documents() -> Path:
    """Return the user's folder of documents, as the system names it; it may not be there."""
    if sys.platform == "win32":
        return _windows_documents()
    if sys.platform == "darwin":
        return Path.home() / "Documents"
    return Path(os.environ.get("XDG_DOCUMENTS_DIR") or _xdg_documents() or Path.home() / "Documents")


def _windows_documents() -> Path:
    import ctypes
    from ctypes import wintypes

    text = ctypes.create_unicode_buffer(wintypes.MAX_PATH)
    personal = 5  # CSIDL_PERSONAL, which follows a folder that was moved, as to OneDrive
    failed = ctypes.windll.shell32.SHGetFolderPathW(None, personal, None, 0, text)  # type: ignore[attr-defined,unused-ignore]
    return Path.home() / "Documents" if failed else Path(text.value)


def _xdg_documents() -> str:
    """Return what the desktop's own file of folders says; empty if it says nothing."""
    path = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "user-dirs.dirs"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""
    found = next((line.partition("=")[2].strip().strip('"') for line in lines if line.startswith("XDG_DOCUMENTS_DIR=")), "")
    return found.replace("$HOME", str(Path.home()))


@dataclass(frozen=True)
class OldResults:
    """Files that older versions left in the cache folder, and where they belong."""

    cache: Path
    kept: Path

    def files(self) -> list[Path]:
        """Return them as they are now; the demo's own checkpoint is none of them."""
        return [] if self.cache == self.kept else sorted(path for path in self._all() if path.name != CHECKPOINT.name)

    def sentence(self) -> str:
        """Return what there is, in one sentence; empty for nothing."""
        count = len(self.files())
        files = "1 file of an older version lies" if count == 1 else f"{count} files of an older version lie"
        return f"{files} in the cache folder {self.cache}, which programs may empty." if count else ""

    def move(self) -> list[str]:
        """Move them to the results, one sentence for each that stays: nothing is written over."""
        stay = []
        for path in self.files():
            place = self.kept / path.relative_to(self.cache)
            if os.path.lexists(place):
                stay.append(f"{path.name} stays in the cache folder: one of that name is in {place.parent} already")
                continue
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(str(path), str(place))
            except OSError as error:
                stay.append(f"{path.name} could not be moved ({error.strerror or error}); it stays where it is")
        return stay

    def _all(self) -> Iterator[Path]:
        for name in LEFT:
            place = self.cache / name
            if place.is_file():
                yield place
            elif place.is_dir():
                yield from (path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
