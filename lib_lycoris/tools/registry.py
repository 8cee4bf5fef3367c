"""Lists all tools: a new one is a file with a constant TOOL, and an entry here. Each is imported when it is first looked into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, wraps
from importlib import import_module
from inspect import cleandoc, signature
from types import MappingProxyType
from typing import Any

from ..records import dataclass
from .declaration import Option, Result, Tool


@dataclass(frozen=True)
class ToolEntry:
    """Where a tool is, and what it is called by those who call it."""

    name: str  # in TOOLS and in the HTTP API
    module: str  # below this package
    verb: str  # of the command line; tools that share one are told apart by what they require, the first that has it runs
    function: str = ""  # in Python: lib_lycoris.NAME; the name when empty


ENTRIES = (
    ToolEntry("merge", "merge.checkpoint", "merge"),
    ToolEntry("networks_merge", "merge.networks", "merge", "merge_networks"),
    ToolEntry("extract", "extract.extract", "extract"),
    ToolEntry("measure", "extract.measure", "measure"),
    ToolEntry("resize", "reshape.resize", "resize"),
    ToolEntry("slim", "reshape.slim", "slim"),
    ToolEntry("convert", "reshape.convert", "convert"),
    ToolEntry("bake", "reshape.bake", "bake"),
    ToolEntry("split", "reshape.split", "split"),
    ToolEntry("prune", "reshape.prune", "prune"),
    ToolEntry("metadata", "reshape.metadata", "metadata", "edit_metadata"),
    ToolEntry("interrogate", "examine.interrogate", "interrogate"),
    ToolEntry("find", "library.find", "find"),
    ToolEntry("compare", "examine.compare", "compare"),
    ToolEntry("verify", "merge.verify", "verify"),
    ToolEntry("undo", "merge.undo", "undo"),
)
# Verb of the command line -> what it does, for a list of all that imports none of them. The order is what people see.
VERBS: Mapping[str, str] = MappingProxyType(
    {
        "merge": "merge networks into a checkpoint (with --sd_model), or into one network",
        "extract": "extract the difference of two checkpoints as a network",
        "measure": "measure how large and how exact an extraction would be, rank by rank",
        "resize": "make a network smaller by lowering its rank",
        "slim": "leave out blocks or kinds of layers and cut the rest to a size or an error",
        "convert": "rename keys, change precision, or turn any network into a plain LoRA",
        "bake": "write strengths and block weights into a network file",
        "split": "cut a DyLoRA into networks of fixed ranks",
        "prune": "leave out the layers of a network that change nothing",
        "metadata": "show, edit, repair or strip what network files say about themselves",
        "interrogate": "tell which words a network reacts to most",
        "find": "find equal and similar networks, which network a file is, and what a checkpoint is made of",
        "compare": "compare networks: sizes by block, spectra, overlap",
        "verify": "recompute a merged checkpoint from its recipe and compare it bit by bit",
        "undo": "restore the checkpoint that a merge started from, to the byte",
    }
)
FUNCTIONS: Mapping[str, str] = MappingProxyType({entry.function or entry.name: entry.name for entry in ENTRIES})


def load_tools() -> dict[str, Tool]:
    """Import all tools and return their declarations by name."""
    return {entry.name: _tool(entry) for entry in ENTRIES}


def tools_of(verb: str) -> list[Tool]:
    """Import the tools of a verb of the command line and return their declarations."""
    return [_tool(entry) for entry in ENTRIES if entry.verb == verb]


@cache
def function(name: str) -> Callable[..., Result]:
    """Return a tool as the function that `lib_lycoris` has under a name: its own signature, its options held to the declaration."""
    tool = next(_tool(entry) for entry in ENTRIES if entry.name == FUNCTIONS[name])
    parameters = [p.name for p in signature(tool.function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]

    @wraps(tool.function)
    def call(*files: Any, **options: Any) -> Result:
        if len(files) > len(parameters):
            raise TypeError(f"{name}() takes {len(parameters)} arguments without a name, but got {len(files)}; name the options")
        return tool.run(**dict(zip(parameters, files)), **options)

    call.__name__ = call.__qualname__ = name
    call.__module__ = "lib_lycoris"
    call.__doc__ = documented(tool)
    return call


def documented(tool: Tool) -> str:
    """Return a function's docstring with a line for each option of the declaration."""
    lines = [f"    {option.name}: {_described(option)}" for option in tool.options if not (option.ignored or option.refused)]
    more = ["    progress: reports stages to a callback, and cancels."]
    return "\n".join([cleandoc(tool.function.__doc__ or tool.summary), "", "Args:", *lines, *more])


def _described(option: Option) -> str:
    choices = f"; one of {', '.join(map(str, option.choices))}" if option.choices else ""
    default = "" if option.default in (None, False, ()) else f" (default: {option.default})"
    return f"{option.help}{choices}{default}"


def _tool(entry: ToolEntry) -> Tool:
    tool: Tool = import_module(f".{entry.module}", __package__).TOOL
    return tool
