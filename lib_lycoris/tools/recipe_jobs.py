"""A recipe file: a list of jobs, each a table of options, with paths from the file's folder on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ToolError, reason
from ..plain_json import read_json
from .declaration import Option, Tool
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
