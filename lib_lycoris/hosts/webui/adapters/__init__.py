"""The webuis that we know, one small file each."""

from __future__ import annotations

from functools import cache

from .a1111 import A1111
from .adapter import Adapter, WordTable
from .forge import Forge
from .neo import Neo
from .reforge import ReForge
from .sdnext import SDNext

__all__ = ["A1111", "ADAPTERS", "Adapter", "WordTable", "adapter", "unsupported"]

ADAPTERS: tuple[type[Adapter], ...] = (  # the most special first
    Neo,
    Forge,
    ReForge,
    SDNext,
    A1111,
)


@cache
def adapter() -> Adapter | None:
    """Return the adapter of the webui that we run in; None in any other program."""
    found = next((kind for kind in ADAPTERS if kind.detect()), None)
    return None if found is None else found()


def unsupported() -> str:
    """Return the sentence for a program that has no adapter."""
    return "LyCORIS: this program is not known to the extension; <lyco:...> does nothing here"
