"""The webuis that we know, one small file each."""

from __future__ import annotations

import sys
from functools import cache

from .a1111 import A1111
from .adapter import Adapter, WordTable
from .forge import Forge
from .neo import Neo
from .reforge import ReForge

__all__ = ["A1111", "ADAPTERS", "Adapter", "WordTable", "adapter", "unsupported"]

ADAPTERS: tuple[type[Adapter], ...] = (  # the most special first
    Neo,
    Forge,
    ReForge,
    A1111,
)


@cache
def adapter() -> Adapter | None:
    """Return the adapter of the webui that we run in; None in any other program."""
    found = next((kind for kind in ADAPTERS if kind.detect()), None)
    return None if found is None else found()


def unsupported() -> str:
    """Return the sentence for a program that has no adapter."""
    if getattr(sys.modules.get("modules.shared"), "native", None) is not None:  # its models are pipelines of diffusers
        return (
            "LyCORIS: SD.Next is not supported, so <lyco:...> does nothing here: write <lora:NAME:STRENGTH>, which its own loader reads; "
            "the tools run beside it with python3 run.py"
        )
    return "LyCORIS: this program is not known to the extension; <lyco:...> does nothing here"
