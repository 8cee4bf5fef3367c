"""What a merged file says it was made of. Its metadata may be anybody's: it is looked at before anything is looked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import PurePath, PurePosixPath
from typing import Any

from ...errors import ToolError, readable
from ...networks.reading.dtypes import PRECISIONS
from ..files.metadata import read_recipe
from .checkpoint import ROUNDINGS

STRENGTHS = ("te", "te2", "unet")
TEXTS = ("lbw", "lbwe")


def recorded_merge(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return the recipe that a merge wrote into a file. Raises ToolError naming the file when there is none, or another kind."""
    recipe = read_recipe(metadata, name)
    if recipe["tool"] != "merge":
        tool = readable(recipe["tool"], 40)
        raise ToolError(f"{name} was made by {tool}; verify checks what merge into a checkpoint has made")
    wrong = [key for key, check in CHECKS.items() if not check(recipe.get(key))]
    if wrong:
        raise ToolError(f"the recipe in {name} is damaged: {wrong[0]} is not what merge writes there; give the file as it was made")
    return recipe


def _is_file(entry: Any) -> bool:
    """Tell whether an entry names a file, or a folder of files, by a plain name, a size and a hash."""
    if not isinstance(entry, dict) or not _is_name(entry.get("name")):
        return False
    if "files" not in entry:
        return type(entry.get("bytes")) is int and isinstance(entry.get("sha256", entry.get("header_sha256")), str)
    return isinstance(entry["files"], list) and all(_is_file(part) and _is_inside(part.get("file")) for part in entry["files"])


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and _is_usable(name) and PurePath(name).name not in ("", "..")


def _is_inside(name: Any) -> bool:
    """Tell whether a path leads into a folder and not out of it."""
    return isinstance(name, str) and _is_usable(name) and not {"..", "/"} & set(PurePosixPath(name.replace("\\", "/")).parts)


def _is_usable(name: str) -> bool:
    return name.isprintable() and all(len(part.encode()) <= 255 for part in name.split("/"))


def _is_network(entry: Any) -> bool:
    if not _is_file(entry):
        return False
    numbers = (entry.get(key, 0.0) for key in STRENGTHS)
    texts, ranks = (entry.get(key, "") for key in TEXTS), entry.get("dyn", 0)
    return all(map(_is_number, numbers)) and all(isinstance(text, str) for text in texts) and type(ranks) is int and ranks >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and isfinite(value)


CHECKS: dict[str, Callable[[Any], bool]] = {
    "sd_model": _is_file,
    "networks": lambda found: isinstance(found, list) and all(map(_is_network, found)),
    "seed": lambda found: found is None or type(found) is int,
    "rounding": lambda found: found is None or found in ROUNDINGS,
    "save_precision": lambda found: found is None or found in tuple(PRECISIONS),  # what comes out of a file may be no key of a table
}
