"""Fields of a page made from a tool's declaration, for the options that need no words of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ....errors import ToolError
from ....tools import TOOLS
from ....tools.declaration import Option, Tool
from ....tools.files.store import FileStore
from ....tools.jobs.places import shown
from ....tools.option_names import as_field, spelled
from ...context import PageContext

DEFAULT = "as it is"  # the choice that gives no value where there is no default


def with_fields(text: str, tool: Tool) -> str:
    """Return a tool's sentence with its options as the fields of its page."""
    return spelled(text, (*tool.options, *(option for other in TOOLS.values() for option in other.options)), as_field)


def as_shown(text: str, tool: Tool, store: FileStore) -> str:
    """Return a tool's text as its page shows it: options as fields, and files in the folders that the pages offer by their names there."""
    places = {file.path.parent for file in (*store.networks(), *store.checkpoints())} | {store.network_folder(), store.checkpoint_folder()}
    for folder in sorted(places, key=lambda place: len(place.parts)):  # an outer one first: what is left is the name below it
        if folder != Path(folder.anchor):
            text = text.replace(f"{folder}{os.sep}", "")
    return with_fields(text, tool)


class OptionFields:
    """Components for some options of a tool, in their order; empty fields leave the option at its default."""

    def __init__(self, context: PageContext, tool_name: str, names: Sequence[str], page: str) -> None:
        self.tool: Tool = context.jobs.tool(tool_name)
        declared = {option.name: option for option in self.tool.options}
        self.options: list[Option] = [declared[name] for name in names]
        self.page = page
        self.components: list[Any] = []

    def build(self, context: PageContext) -> None:
        """Add the components to the open gr.Blocks; their values are kept between visits."""
        self.components = [_component(option, self.tool, f"lyco_{self.page}_{option.name}") for option in self.options]
        context.keep(self.page, {option.name: part for option, part in zip(self.options, self.components)})

    def read(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the options that the components' values mean, in their order; what is empty is left out. Raises ToolError."""
        for option, value in zip(self.options, values):
            if value is None and option.type in (int, float) and option.default is not None and not option.choices:
                raise ToolError(f"{option.title}: a number is missing")
        given = [(option, value.strip() if isinstance(value, str) else value) for option, value in zip(self.options, values)]
        return {option.name: _value(option, value) for option, value in given if value not in (None, "", DEFAULT)}


def devices() -> list[str]:
    """Return where tools can compute on this machine, the fastest first."""
    import torch

    gpus = [f"cuda:{number}" if number else "cuda" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*gpus, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def _component(option: Option, tool: Tool, elem_id: str) -> Any:
    label, info = option.title, with_fields(sentence(option.help), tool)
    if option.type is bool:
        return gr.Checkbox(value=bool(option.default), label=label, info=info, elem_id=elem_id)
    if option.name == "device":
        found = devices()
        return gr.Dropdown(found, value=found[0], label=label, info=info, elem_id=elem_id)
    if option.choices:
        choices = [*([] if option.default is not None else [DEFAULT]), *map(str, option.choices)]
        value = DEFAULT if option.default is None else str(option.default)
        return gr.Dropdown(choices, value=value, label=label, info=info, elem_id=elem_id)
    if option.type in (int, float) and option.default is not None:  # a browser shows 0 in a number's field that is empty
        whole = {"precision": 0} if option.type is int else {}
        return gr.Number(value=option.default, label=label, info=info, elem_id=elem_id, **whole)
    lines = {} if option.type is str and not option.nargs else {"max_lines": 1}  # a number, or some of them, is no text
    return gr.Textbox(value="" if option.default is None else str(option.default), label=label, info=info, elem_id=elem_id, **lines)


def sentence(text: str) -> str:
    """Return a help text as it stands below a field."""
    return text[:1].upper() + text[1:]


def _value(option: Option, value: Any) -> Any:
    if isinstance(value, str) and (option.nargs in ("+", "*") or isinstance(option.nargs, int)):
        return [_value_of_one(option, item) for item in value.split()]
    return _value_of_one(option, value)


def _value_of_one(option: Option, value: Any) -> Any:
    if option.choices and isinstance(value, str):
        return next((choice for choice in option.choices if str(choice) == value), value)
    if option.type not in (int, float):
        return value
    try:
        return option.type(value)
    except ValueError as error:
        kind = "a whole number" if option.type is int else "a number"
        raise ToolError(f"{option.title} is {shown(value)}, but {kind} is expected; leave it empty if you have none") from error
