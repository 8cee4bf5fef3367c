"""File <-> Network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loading import load
    from .network import Network, Skipped

__all__ = ["Network", "Skipped", "load"]

_HOMES = {"Network": "network", "Skipped": "network", "load": "loading"}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used: headers are read without it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
