"""Validates options against a tool's declaration: the one place for command line, API, pages and Python."""

from __future__ import annotations

import difflib
import errno
import os
import warnings
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ToolError, kind_of, readable
from ..wording import storable

if TYPE_CHECKING:
    from .declaration import Option, Tool

KINDS: dict[type, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "the name of a file"}
EMPTY: tuple[Any, ...] = (None, "", [], ())
Note = Callable[[str], None]


def validated(tool: Tool, given: Mapping[str, Any], note: Note = warnings.warn, hint: str = "") -> dict[str, Any]:
    """Return every option of a tool, each of its declared type; what was not given, or is None, has its default.

    Args:
        note: called with a sentence for each option that is known and has no meaning here.
        hint: the end of a sentence on an unknown or missing option.

    Raises:
        ToolError: an option is unknown, missing, of another type, none of the choices, or cannot be obeyed.
    """
    declared = {option.name: option for option in tool.options}
    options = tool.defaults()
    for name, value in given.items():
        option = declared.get(name)
        if option is None:
            raise ToolError(_unknown(tool, name, hint))
        if value is None or (option.ignored and value is False):
            continue
        if option.refused:
            raise ToolError(option.refused)
        if option.ignored:
            note(option.ignored)
        else:
            options[name] = typed(option, value)
            _check(option, options[name])
    if lacking := missing(tool, options):
        raise ToolError(f"{tool.pretty} needs {', '.join(option.name for option in lacking)}{hint}")
    return options


def _check(option: Option, value: Any) -> None:
    """Raise ToolError for values of the right type that cannot be used."""
    for one in value if isinstance(value, list) else [value]:
        if option.type is Path:
            check_path(option.name, one, new=option.kind == "output")
        if option.check is not None:
            option.check(one)


def at_least(least: int, name: str) -> Callable[[int], None]:
    """Return the check of an option that counts something: a rank, rows, words."""

    def check(value: int) -> None:
        if value < least:
            raise ToolError(f"`{name}` is {least} or more, but got {value}")

    return check


def missing(tool: Tool, given: Mapping[str, Any]) -> list[Option]:
    """Return the options that a tool requires and that were not given."""
    return [option for option in tool.options if option.required and given.get(option.name) in EMPTY]


def typed(option: Option, value: Any) -> Any:
    """Return one value, or a list of them, as the option has it. Raises ToolError naming the option and what it takes."""
    several = option.nargs in ("+", "*") or isinstance(option.nargs, int)
    if isinstance(value, (list, tuple)):
        if not several:
            raise ToolError(f"{option.name} is a list, but one value is expected")
        return [_one(option, item) for item in value]
    found = _one(option, value)
    return [found] if several else found


def _one(option: Option, value: Any) -> Any:
    wanted = {float: (int, float), Path: (str, Path)}.get(option.type, (option.type,))
    wrong = not isinstance(value, wanted) or (isinstance(value, bool) and option.type is not bool)
    if wrong or (option.type is float and not _usable(value)):
        raise ToolError(f"{option.name} is {_shown(value)}, but {KINDS.get(option.type, option.type.__name__)} is expected")
    if isinstance(value, str) and option.type is str and option.check is None and storable(value) != value:
        raise ToolError(f"{option.name} holds half a character, which no file can hold; write it anew, in UTF-8")
    if option.choices and value not in option.choices:
        raise ToolError(f"{option.name} is {_shown(value)}, but one of {', '.join(map(str, option.choices))} is expected")
    found = option.type(value)
    return found.resolve() if option.type is Path and option.kind != "output" and value and found.name in ("", "..") else found


def check_path(name: str, path: Path, new: bool = False) -> None:
    """Raise ToolError naming the option for a path that no file can have on this system; a new file's needs a name at its end."""
    reason = "it names no file" if new and path.name in ("", "..") else ""
    try:
        os.lstat(path)
    except ValueError:  # a null byte, half a character
        reason = "it holds a character that no name of a file can have"
    except OSError as error:
        reason = "it is too long" if error.errno == errno.ENAMETOOLONG else reason
    if reason:
        raise ToolError(f"{name} is {readable(repr(str(path)), 80)}, which cannot be used: {reason}")


def _usable(value: float) -> bool:
    """Tell whether a number, which may be a whole one of any length, is a finite float."""
    try:
        return isfinite(value)
    except OverflowError:
        return False


def _unknown(tool: Tool, name: str, hint: str) -> str:
    """Return a sentence on an option that a tool does not have, with the nearest that it has."""
    known = list(tool.defaults())
    near = difflib.get_close_matches(str(name), known, 1) or [other for other in known if other.startswith(str(name))][:1]
    meant = f'; did you mean "{near[0]}"?' if near else f"; its options are {', '.join(known)}"
    return f'"{_shown(name, bare=True)}" is no option of {tool.verb or tool.name}{meant}{hint}'


def _shown(value: Any, bare: bool = False) -> str:
    if not bare and isinstance(value, (dict, list, tuple)):
        return kind_of(value)
    text = str(value) if bare else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
