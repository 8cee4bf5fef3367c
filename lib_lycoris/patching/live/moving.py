"""Modules that are moved between devices while networks are on them, as programs with little memory do: who keeps things there is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class _Move:
    """Stands in for a module's ``_apply``, which all of torch's ways to move or cast a module come to, of a model that it is in too."""

    def __init__(self, module: nn.Module, moved: Callable[[], None]) -> None:
        self.own: Any = module.__dict__.get("_apply")  # set by another program on this one module
        self.inner = self.own if self.own is not None else type(module)._apply.__get__(module)
        self.moved = moved

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = self.inner(*args, **kwargs)
        self.moved()
        return found


def watch(module: nn.Module, moved: Callable[[], None]) -> None:
    """Have this called after each move of a module or cast of its parameters, in place of what was called before."""
    known = module.__dict__.get("_apply")
    if isinstance(known, _Move):
        known.moved = moved
    else:
        module.__dict__["_apply"] = _Move(module, moved)


def unwatch(module: nn.Module) -> None:
    """Have nothing called any more."""
    known = module.__dict__.get("_apply")
    if isinstance(known, _Move):
        del module.__dict__["_apply"]
        if known.own is not None:
            module.__dict__["_apply"] = known.own
