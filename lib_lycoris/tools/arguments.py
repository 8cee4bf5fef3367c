"""What was typed or stands in a recipe -> options of a tool: numbers, folders and patterns of files, one strength for all networks."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from glob import glob, has_magic
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from ..errors import LycorisError, NetworkFormatError, ToolError
from .declaration import Tool, as_list
from .jobs.devices import fastest
from .validation import check_path

COMMA = re.compile(r"[+-]?\d*,\d+")


class Parser(argparse.ArgumentParser):
    """A parser that remembers what it said of a command line that it cannot read, for whoever asked for JSON."""

    said = ""  # of all parsers: the last sentence

    def error(self, message: str) -> NoReturn:
        """Say it, and end with exit code 2."""
        Parser.said = str(LycorisError(message))  # what was typed may be of any length, and hold what a terminal obeys
        super().error(Parser.said)


def finite(note: Callable[[str], None]) -> Callable[[str], float]:
    """Return what reads a number as the user means it: with a decimal comma too, which is noted; neither NaN nor infinity."""

    def number(text: str) -> float:
        plain = text
        if COMMA.fullmatch(text):
            plain = text.replace(",", ".")
            note(f"{text} is read as {plain}; several numbers are separated by spaces")
        try:
            value = float(plain)
        except ValueError:
            hint = "; several numbers are separated by spaces, not commas" if "," in text else ""
            raise argparse.ArgumentTypeError(f"{text} is no number{hint}") from None
        if not isfinite(value):
            raise argparse.ArgumentTypeError(f"{text} is no strength or size; give a number")
        return value

    return number


def whole(text: str) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        hint = "; several numbers are separated by spaces, not commas" if "," in text else ""
        raise argparse.ArgumentTypeError(f"{text} is no whole number{hint}") from None


def completed(tool: Tool, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as a tool takes them: folders and patterns as files, one strength for all networks, the fastest device."""
    found = dict(given)
    for option in tool.options:
        if option.kind == "networks" and found.get(option.name):
            for item in as_list(found[option.name]):
                check_path(option.name, Path(item))
            paths = [Path(item) for item in as_list(found[option.name])]
            found[option.name] = [file for path in paths for file in ([path] if option.walks and path.is_dir() else networks_at(path))]
    count = len(as_list(found.get("models")))
    for option in tool.options:
        values = as_list(found.get(option.name))
        if option.per_network and len(values) == 1 and count > 1:
            found[option.name] = values * count
        if option.fastest and found.get(option.name) is None:
            found[option.name] = fastest()
    return found


def networks_at(path: Path) -> list[Path]:
    """Return the network files that a name stands for: itself, those of a folder, those that a pattern fits.

    Raises:
        ToolError: a folder or a pattern without network files.
    """
    from ..networks.reading.folder import EXTENSIONS, network_in

    if path.is_dir():
        try:
            network_in(path)
            return [path]  # one network, in a folder as PEFT saves it
        except NetworkFormatError:
            files = [file for file in sorted(path.iterdir()) if file.is_file() and file.suffix.lower() in EXTENSIONS]
    elif has_magic(str(path)) and not path.exists():
        files = [Path(file) for file in sorted(glob(str(path))) if Path(file).suffix.lower() in EXTENSIONS]
    else:
        return [path]
    if not files:
        raise ToolError(f"{path} holds no network file ({', '.join(EXTENSIONS)})")
    return files


def size(text: str) -> tuple[int, int]:
    """Read the width and height of an image in pixels: WxH, or one number for both."""
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is not a size; write WIDTHxHEIGHT in pixels, such as 512x768') from None
