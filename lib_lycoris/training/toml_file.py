"""A TOML file, read with a sentence on what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..errors import ToolError

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
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ToolError(f"{path.name} is no TOML: {error}") from error
