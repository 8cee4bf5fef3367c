"""How callbacks are registered with a webui, of this day and of an older one."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from lib_lycoris.hosts.webui.callbacks import listen


def of_webui(monkeypatch: pytest.MonkeyPatch, **contents: Any) -> None:
    """Have the webui's module hold these."""
    modules, callbacks = types.ModuleType("modules"), types.ModuleType("modules.script_callbacks")
    vars(callbacks).update(contents)
    modules.script_callbacks = callbacks  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modules", modules)
    monkeypatch.setitem(sys.modules, "modules.script_callbacks", callbacks)


def action() -> None:
    """Do nothing."""


def refused(_: Callable[..., Any]) -> None:
    raise AssertionError("the webui would look through the stack")


def test_the_webui_is_told_the_file_that_it_would_look_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings know a callback by that file's name and the event's."""
    found: list[Any] = []

    def add(callbacks: list[Any], fun: Any, *, name: Any = None, category: str = "unknown", filename: str | None = None) -> None:
        callbacks.append((fun, name, category, filename))

    of_webui(monkeypatch, add_callback=add, callback_map={"callbacks_before_ui": found}, on_before_ui=refused)
    listen("before_ui", action)
    assert found == [(action, None, "before_ui", __file__)]


@pytest.mark.parametrize("lists", [{}, {"callback_map": {"callbacks_before_ui": []}}])
def test_an_older_webui_looks_itself(monkeypatch: pytest.MonkeyPatch, lists: dict[str, Any]) -> None:
    found: list[Any] = []
    of_webui(monkeypatch, add_callback=lambda callbacks, fun: refused(fun), on_before_ui=found.append, **lists)
    listen("before_ui", action)
    assert found == [action]


def test_an_event_that_is_in_no_list_is_registered_by_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    add = lambda callbacks, fun, *, category="", filename="": refused(fun)  # noqa: E731
    of_webui(monkeypatch, add_callback=add, callback_map={}, on_before_ui=found.append)
    listen("before_ui", action)
    assert found == [action]
