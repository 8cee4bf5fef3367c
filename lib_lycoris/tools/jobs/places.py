"""Where files may lie that somebody names: nothing outside of the folders that a program offers is read or written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...errors import ToolError

SUFFIX = ".safetensors"
LONGEST = 200  # characters of a name; file systems take 255 bytes
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that Windows keeps for itself


class Taken(ToolError):
    """A file of that name is there already, and nobody asked for it to be replaced."""


def new_file(folder: Path, name: str, suffix: str = SUFFIX, replace: bool = False) -> Path:
    """Return the path of a new file below a folder; a name may hold subfolders, and need not hold the suffix.

    An empty suffix means a folder. Raises ToolError for a name that leads outside or cannot be a file's, Taken for one that is there.
    """
    text = name.strip()
    if not text:
        raise ToolError("the result needs a name; give one, such as my-merge")
    check_name(text)
    path = Path(text) if os.path.isabs(text) else folder / text.replace("\\", "/")
    if suffix and path.suffix.lower() != suffix:
        path = path.with_name(path.name + suffix)
    outside = ":" in text.replace(path.drive, "", 1) if path.drive else ":" in text  # C:\\x on a system that has no drives
    if outside or not inside(path, [folder]):
        raise ToolError(f'"{shown(name)}" leads outside of {folder.name}; results are written below that folder only')
    if not path.parent.is_dir():
        raise ToolError(f'"{shown(name)}": there is no such folder in {folder.name}; make it, or leave it out')
    if os.path.lexists(path) and not replace:
        raise Taken(f"{path.name} is there already; choose another name")
    return path


def free_for_several(path: Path) -> None:
    """Raise Taken if a file is there that a tool would write whose files get a number behind the name."""
    taken = re.compile(re.escape(path.stem) + r"-\d+" + re.escape(path.suffix))
    found = next((other.name for other in path.parent.iterdir() if taken.fullmatch(other.name)), None)
    if found:
        raise Taken(f"{found} is there already; choose another name")


def check_name(text: str) -> None:
    """Raise ToolError for a name that no file may have on some system."""
    if any(ord(letter) < 32 for letter in text):
        raise ToolError("a name holds a letter that cannot be written, such as a line break; use letters, digits, - and _")
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or len(parts[-1]) > LONGEST:
        raise ToolError(f'"{shown(text)}" is no name of a file; use up to {LONGEST} letters, digits, - and _')
    if any(DEVICES.fullmatch(part) for part in parts) or parts[-1].startswith("."):
        raise ToolError(f'"{shown(text)}" cannot be the name of a file on every system; choose another name')


def inside(path: Path, folders: Iterable[Path]) -> bool:
    """Tell whether a path lies in one of the folders, after links and .. were followed."""
    try:
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(os.path.realpath(folder)) and real != Path(os.path.realpath(folder)) for folder in folders)
    except (OSError, ValueError):  # a null byte, a circle of links
        return False


def known_file(name: str, offered: Mapping[str, Path], folders: Iterable[Path], what: str) -> Path:
    """Return the file that a name or path means: one that is offered, or one that lies in the folders.

    Raises ToolError if there is none, without telling whether a file outside exists.
    """
    if name in offered:
        return offered[name]
    missing = ToolError(f'there is no {what} "{shown(name)}" in the folders that are used here; give a name from the list')
    if "\0" in name:
        raise missing
    folders = list(folders)
    wanted = os.path.normpath(name)
    for path in offered.values():
        if os.path.isabs(name) and os.path.normpath(path) == wanted:
            return path
    for path in [Path(name)] if os.path.isabs(name) else [folder / name.replace("\\", "/") for folder in folders]:
        if inside(path, folders) and os.path.exists(path):  # False, not an error, for a name that is too long
            return path
    raise missing


def shown(text: str) -> str:
    """Return a text as it may stand in a sentence: short, without control characters."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return plain if len(plain) <= 80 else f"{plain[:77]}..."
