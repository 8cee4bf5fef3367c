"""The webui's API tells our settings, whether it listed the settings it tells before ours were there or after."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import gradio
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import Field, create_model


class OptionInfo:
    """A setting of the webui."""

    def __init__(self, default: Any, label: str, component: Any = None, component_args: Any = None) -> None:
        self.default, self.label, self.component, self.component_args = default, label, component, component_args

    def info(self, text: str) -> OptionInfo:
        return self


def list_settings(templates: dict[str, OptionInfo]) -> ModuleType:
    """Return the module of the webui's API that is made when something first imports it: it lists the settings of that moment."""
    made = ModuleType("modules.api.models")
    fields: dict[str, Any] = {key: (Any, Field(default=option.default)) for key, option in templates.items()}
    made.__dict__["OptionsModel"] = create_model("Options", **fields)
    return made


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Be a webui with one setting of its own, whose config.json has one of ours and one that nobody knows."""
    modules: Any = ModuleType("modules")
    modules.shared = SimpleNamespace(
        gr=gradio, OptionInfo=OptionInfo, options_templates={"theirs": OptionInfo(1, "Theirs")},
        options_section=lambda section, options: options,
        opts=SimpleNamespace(data={"lyco_functional": True, "lyco_show_all": True, "unknown": 1}),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "modules", modules)
    name = "lib_lycoris.hosts.webui.interface.settings"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield modules.shared
    sys.modules.pop(name, None)


def register() -> None:
    importlib.import_module("lib_lycoris.hosts.webui.interface.settings").register()


def told(shared: Any, models: Any) -> dict[str, Any]:
    """Return what the webui's API answers: it makes its routes after all extensions are there."""
    app = FastAPI()
    app.add_api_route("/options", lambda: shared.opts.data, response_model=models.OptionsModel)
    answer: dict[str, Any] = TestClient(app).get("/options").json()
    return answer


EXPECTED = {"theirs": 1, "lyco_mode": "functional", "lyco_show_all": True, "lyco_preferred_name": "Filename"}


@pytest.mark.parametrize("reloads", [0, 1])
def test_a_list_that_was_made_before_our_settings_has_them(shared: Any, monkeypatch: pytest.MonkeyPatch, reloads: int) -> None:
    models = list_settings(shared.options_templates)
    monkeypatch.setitem(sys.modules, "modules.api.models", models)
    for _ in range(1 + reloads):
        register()
    answer = told(shared, models)
    assert EXPECTED.items() <= answer.items() and answer.keys() == shared.options_templates.keys()


def test_a_list_that_is_made_later_has_them_by_itself(shared: Any) -> None:
    register()
    answer = told(shared, list_settings(shared.options_templates))
    assert EXPECTED.items() <= answer.items() and "modules.api.models" not in sys.modules
