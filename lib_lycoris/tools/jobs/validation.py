"""What the user or a program gave -> the keywords of a tool, checked by the tool's declaration: one way for command line, API and pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from ...errors import ToolError
from ..declaration import Option, Tool

KINDS: dict[type, str] = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "the name of a file"}
EMPTY: tuple[Any, ...] = (None, "", [], ())


def options_for(tool: Tool, given: Mapping[str, Any], note: Callable[[str], None], hint: str = "") -> dict[str, Any]:
    """Return the keywords of a tool for what was given; ``note`` is told of options that have no meaning here.

    Raises ToolError for an option that the tool does not know or cannot obey.
    """
    declared = {option.name: option for option in tool.options}
    options = tool.defaults()
    for name, value in given.items():
        option = declared.get(name)
        if option is None:
            raise ToolError(f'"{name}" is no option of: {tool.summary}{hint}')
        if option.refused:
            raise ToolError(option.refused)
        if option.ignored:
            note(option.ignored)
        else:
            options[name] = value
    return options


def missing(tool: Tool, given: Mapping[str, Any]) -> list[Option]:
    """Return the options that a tool requires and that were not given."""
    return [option for option in tool.options if option.required and given.get(option.name) in EMPTY]


def checked(tool: Tool, given: Mapping[str, Any], note: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Return the keywords of a tool for values of JSON, each of the declared kind. Raises ToolError naming the option."""
    options = options_for(tool, given, note)
    declared = {option.name: option for option in tool.options}
    found = {name: value if name not in given else typed(declared[name], value) for name, value in options.items()}
    lacking = ", ".join(option.name for option in missing(tool, found))
    if lacking:
        raise ToolError(f"{tool.pretty} needs {lacking}")
    return found


def typed(option: Option, value: Any) -> Any:
    """Return one value, or a list of them, as the option has it. Raises ToolError naming the option and what it takes."""
    if value is None:
        return None
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
    if wrong or (option.type is float and not isfinite(value)):
        raise ToolError(f"{option.name} is {_shown(value)}, but {KINDS.get(option.type, option.type.__name__)} is expected")
    if option.choices and value not in option.choices:
        raise ToolError(f"{option.name} is {_shown(value)}, but one of {', '.join(map(str, option.choices))} is expected")
    return option.type(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
