"""Networks of the LoRA/LyCORIS family: read, understood exactly, put on running models, merged, extracted, resized, converted.

    import lib_lycoris
    with lib_lycoris.apply(unet, {"style.safetensors": 0.7}):
        image = pipeline("a castle").images[0]
    lib_lycoris.merge("model.safetensors", ["style.safetensors"], "merged.safetensors", ratios=[0.7])

The packages, from the leaves up: ``algorithms`` (stored tensors -> ΔW) and ``models`` (names of base models), ``networks`` (files),
``prompt`` (what a tag means), ``patching`` (on a live model), ``tools`` (files to files), ``hosts`` and ``ui`` (programs and pages).
Everything here is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import algorithms, errors, models, networks, patching, prompt, tools
    from .errors import HostError, LycorisError, ModelMismatchError, NetworkFormatError, PromptError, ToolError, UnknownFamilyError
    from .networks import Network, load
    from .patching import Activation, Patcher, Report
    from .patching.context import apply
    from .patching.workspace import Mode
    from .tools.declaration import Plan, Result
    from .tools.examine.compare import run as compare
    from .tools.examine.inspect import inspect
    from .tools.examine.interrogate import run as interrogate
    from .tools.extract.extract import run as extract
    from .tools.extract.measure import run as measure
    from .tools.jobs.progress import Cancelled, Progress, ProgressState
    from .tools.library.find import run as find
    from .tools.merge.checkpoint import run as merge
    from .tools.merge.networks import run as merge_networks
    from .tools.merge.undo import run as undo
    from .tools.merge.verify import run as verify
    from .tools.reshape.bake import run as bake
    from .tools.reshape.convert import run as convert
    from .tools.reshape.metadata import edit_metadata
    from .tools.reshape.prune import run as prune
    from .tools.reshape.resize import run as resize
    from .tools.reshape.slim import run as slim
    from .tools.reshape.split import run as split

__version__ = "0.1.0"
__all__ = [
    "Activation", "Cancelled", "HostError", "LycorisError", "Mode", "ModelMismatchError", "Network", "NetworkFormatError", "Patcher",
    "Plan", "Progress", "ProgressState", "PromptError", "Report", "Result", "ToolError", "UnknownFamilyError", "__version__",
    "algorithms", "apply", "bake", "compare", "convert", "edit_metadata", "errors", "extract", "find",
    "inspect", "interrogate",
    "load", "measure", "merge",
    "merge_networks", "models", "networks", "patching", "prompt", "prune", "resize", "slim", "split", "tools", "undo",
    "verify",
]  # fmt: skip

_HOMES = {
    **dict.fromkeys(
        ("HostError", "LycorisError", "ModelMismatchError", "NetworkFormatError", "PromptError", "ToolError", "UnknownFamilyError"),
        "errors",
    ),
    **dict.fromkeys(("Network", "load"), "networks"),
    **dict.fromkeys(("Activation", "Patcher", "Report"), "patching"),
    "apply": "patching.context",
    "Mode": "patching.workspace",
    **dict.fromkeys(("Plan", "Result"), "tools.declaration"),
    **dict.fromkeys(("Cancelled", "Progress", "ProgressState"), "tools.jobs.progress"),
    "inspect": "tools.examine.inspect",
}
_PACKAGES = ("algorithms", "errors", "models", "networks", "patching", "prompt", "tools")


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        found = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    elif name in _PACKAGES:
        found = import_module(f".{name}", __name__)
    elif name.startswith("_") or name not in (registry := import_module(".tools.registry", __name__)).FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        found = registry.function(name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    from .tools.registry import FUNCTIONS

    return sorted({*globals(), *__all__, *FUNCTIONS})
