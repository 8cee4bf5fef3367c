"""Files -> files: every tool is a pure function with one declaration, from which the command line, the API and the tab are built.

``TOOLS`` maps a tool's name to its declaration; the tools of a name are imported when it is first looked into.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .declaration import Tool

    TOOLS: dict[str, Tool]

__all__ = ["TOOLS", "VERBS", "load_tools", "tools_of"]

# Verb of the command line -> what it does, and the modules that do it; each of them has a constant TOOL. The order is what people see.
VERBS: dict[str, tuple[str, tuple[str, ...]]] = {
    "merge": ("put networks into a checkpoint (with --sd_model) or into one network", ("merge.checkpoint", "merge.networks")),
    "extract": ("make a network of the difference of two checkpoints", ("extract.extract",)),
    "measure": ("tell beforehand how large and how exact an extraction would be, rank by rank", ("extract.measure",)),
    "resize": ("give a network other ranks", ("reshape.resize",)),
    "convert": ("write a network in another key style, algorithm or dtype", ("reshape.convert",)),
    "bake": ("write strengths and block weights into a network file", ("reshape.bake",)),
    "split": ("cut a DyLoRA into networks of fixed ranks", ("reshape.split",)),
    "prune": ("leave out the modules of a network that change nothing", ("reshape.prune",)),
    "compare": ("tell how networks overlap and differ", ("examine.compare",)),
    "verify": ("compute a merged checkpoint again from its recipe and compare it bit by bit", ("merge.verify",)),
    "undo": ("restore the checkpoint that a merge started from, to the byte", ("merge.undo",)),
}


def load_tools() -> dict[str, Tool]:
    """Import all tools and return their declarations by name."""
    found = [tool for verb in VERBS for tool in tools_of(verb)]
    return {tool.name: tool for tool in found}


def tools_of(verb: str) -> list[Tool]:
    """Import the tools of a verb of the command line and return their declarations."""
    return [import_module(f".{module}", __name__).TOOL for module in VERBS[verb][1]]


def __getattr__(name: str) -> Any:
    if name != "TOOLS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["TOOLS"] = tools = load_tools()
    return tools
