"""Networks of the LoRA/LyCORIS family: read, understood exactly, and put on running models.

    import lib_lycoris
    with lib_lycoris.apply(unet, {"style.safetensors": 0.7}):
        image = pipeline("a castle").images[0]

The packages, from the leaves up: ``algorithms`` (stored tensors -> ΔW) and ``models`` (names of base models), ``networks`` (files),
``prompt`` (what a tag means), ``patching`` (on a live model), ``tools`` (files to files), ``hosts`` and ``ui`` (programs and pages).
Everything here is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .networks import Network, load
    from .patching import Activation, Patcher
    from .patching.context import apply
    from .tools.examine.inspect import inspect

__version__ = "0.1.0"
__all__ = ["Activation", "Network", "Patcher", "apply", "inspect", "load"]

_HOMES = {
    "Network": "networks",
    "load": "networks",
    "inspect": "tools.examine.inspect",
    "Activation": "patching",
    "Patcher": "patching",
    "apply": "patching.context",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
