"""A recipe file: a list of jobs, each a table of options, with paths from the file's folder on; all files are looked at beforehand."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import ToolError, reason
from ..plain_json import read_json
from .declaration import Option, Tool, as_list
from .validation import typed


def read_jobs(path: Path, given: Mapping[str, Any], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Return the jobs of a recipe file, with what was given beside it as defaults. Raises ToolError naming the file."""
    try:
        found = read_json(path)
    except OSError as error:
        raise ToolError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ToolError(f"{path.name} cannot be read as JSON: {reason(error)}") from error
    jobs = found.get("jobs", [found]) if isinstance(found, dict) else found
    if not isinstance(jobs, list) or not jobs or not all(isinstance(job, dict) for job in jobs):
        raise ToolError(f"{path.name} must hold a list of jobs, each a table of options")
    options = {option.name: option for tool in tools for option in tool.options}
    return [{**given, **{name: _read_value(path, options.get(name), value) for name, value in job.items()}} for job in jobs]


def _read_value(recipe: Path, option: Option | None, value: Any) -> Any:
    """Return a value of a recipe as the option has it: paths from the recipe's folder on."""
    if option is None or value is None:
        return value
    try:
        found = typed(option, value)
    except ToolError as error:
        raise ToolError(f"{recipe.name}: {error}") from error
    if option.type is not Path:
        return found
    return [recipe.parent / path for path in found] if isinstance(found, list) else recipe.parent / found


def check_files(jobs: Sequence[tuple[Tool, Mapping[str, Any]]]) -> None:
    """Raise ToolError naming every file that a job of a recipe reads and that is neither there nor written by a job before it."""
    written: set[Path] = set()
    lost = []
    for number, (tool, options) in enumerate(jobs, 1):
        paths = [(option, Path(path)) for option in tool.options for path in _paths(option, options)]
        for option, path in paths:
            if option.kind != "output" and not path.exists() and path.absolute() not in written:
                lost.append(f"job {number}: there is no {path} (--{option.name})")
            if option.kind == "output" and not path.absolute().parent.is_dir():
                lost.append(f"job {number}: there is no folder {path.absolute().parent} (--{option.name})")
        written |= {path.absolute() for option, path in paths if option.kind == "output"}
    if lost:
        raise ToolError("\n".join(["nothing was done, since files are missing", *lost]))
    _refuse_replaced(jobs)


def _refuse_replaced(jobs: Sequence[tuple[Tool, Mapping[str, Any]]]) -> None:
    """Raise ToolError where a job would replace what an earlier one reads, unless a job before both made it: such a file is passed on."""
    reader: dict[Any, int] = {}
    made: set[Path] = set()
    for number, (tool, options) in enumerate(jobs, 1):
        paths = [(option, Path(path)) for option in tool.options for path in _paths(option, options)]
        for option, path in paths:
            if option.kind == "output" and (earlier := next((reader[name] for name in _identities(path) if name in reader), None)):
                raise ToolError(
                    f"job {number} would replace {path.name}, which job {earlier} reads; inputs are never overwritten, "
                    f"give `{option.name}` another name"
                )
        read = [path for option, path in paths if option.kind != "output" and _place(path) not in made]
        reader.update((name, number) for path in read for name in _identities(path))
        made |= {_place(path) for option, path in paths if option.kind == "output"}


def _place(path: Path) -> Path:
    """Return where a file of this name is written: a link is replaced itself."""
    return Path(os.path.realpath(path.parent), path.name)


def _identities(path: Path) -> list[Any]:
    """Return what tells that two names are of one file: where links lead, and for one that is there its number on its disk."""
    with suppress(OSError):
        found = path.stat()
        return [os.path.realpath(path), (found.st_dev, found.st_ino)]
    return [os.path.realpath(path)]


def _paths(option: Option, options: Mapping[str, Any]) -> list[Any]:
    return as_list(options.get(option.name)) if option.type is Path else []
