"""Files -> files: every tool is a pure function with one declaration, from which command line, API, library and tab are built.

``TOOLS`` maps a tool's name to its declaration; all of them are imported when it is first looked into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .declaration import Tool

    TOOLS: dict[str, Tool]

__all__ = ["TOOLS"]


def __getattr__(name: str) -> Any:
    if name != "TOOLS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .registry import load_tools

    globals()["TOOLS"] = tools = load_tools()
    return tools
