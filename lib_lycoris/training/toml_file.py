"""A TOML file, read with a sentence on what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..errors import ToolError, readable, reason

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file. Raises ToolError naming the file."""
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ToolError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ToolError(f"{path.name} is no TOML: {_said(error)}; mend it there") from error


def _said(error: Exception) -> str:
    """Say what is wrong with a text: its parser's words where they are of the text, ours for what stops Python."""
    if isinstance(error, tomllib.TOMLDecodeError):
        return readable(error)
    if isinstance(error, UnicodeDecodeError):
        return reason(error)
    return "it is nested too deeply" if isinstance(error, RecursionError) else "a number in it has too many digits"
