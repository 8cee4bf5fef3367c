"""A table of networks with their strengths, as many rows as are needed: one piece of HTML whose cells lycoris.js writes into one field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple
from html import escape
from typing import Any

import gradio as gr

from ...errors import PromptError, ToolError
from ...plain_json import parse_json
from ...prompt import BlockWeights, Tag, TagError, escape_name, find_tags, unescape_name
from ...prompt.number import format_number
from ...records import dataclass
from ..context import PageContext, Receiver
from ..events import Update
from .file_choice import network_picker

MOST = 100  # rows
EMPTY = "[]"
NUMBERS = (("strength", "Strength", "1"), ("te", "Text encoder", "same"), ("unet", "UNet", "same"))  # field, heading, placeholder


@dataclass(frozen=True)
class NetworkRow:
    """One row: a network's name and its strengths; None for one that follows the first."""

    name: str
    strength: float = 1.0
    te: float | None = None
    unet: float | None = None
    blocks: str = ""  # a preset's name, or values with commas

    @property
    def tag(self) -> str:
        """The tag of a prompt that does the same."""
        te, unet = (self.strength if value is None else value for value in (self.te, self.unet))
        numbers = [te] if te == unet else [te, unet]
        parts = [escape_name(self.name), *map(format_number, numbers), *([f"lbw={self.blocks}"] if self.blocks else [])]
        return f"<lyco:{':'.join(parts)}>"


class NetworkTable:
    """The components of the table, and what happens when a network is added."""

    def __init__(self, context: PageContext, page: str) -> None:
        self.context = context
        self.id = f"lyco_{page}"

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        self.picker = network_picker(self.context.store, "Add a network", f"{self.id}_add")
        self.rows = gr.Textbox(EMPTY, elem_id=f"{self.id}_rows", elem_classes=["lyco_hidden"], show_label=False, container=False)
        self.table = gr.HTML(self._html([]), elem_id=f"{self.id}_table")
        added = self.picker.component.input(
            self.add, [self.picker.component, self.rows], [self.picker.component, *self.outputs], queue=False, show_progress="hidden"
        )
        self.events = [added]

    @property
    def inputs(self) -> list[Any]:
        """The component that :meth:`read` takes the value of."""
        return [self.rows]

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`show` updates."""
        return [self.rows, self.table]

    @property
    def receiver(self) -> Receiver:
        """What puts networks that were chosen elsewhere into the table."""
        return Receiver(self._taken, self.inputs, self.outputs)

    def _taken(self, names: Sequence[str], text: str) -> list[Update]:
        rows = self._with(names, text)
        left = [_texts(entry)[0] for entry in rows[MOST:]]
        were = "was" if len(left) == 1 else "were"
        return self.show(rows[:MOST], f"{', '.join(left)} {were} not added: a merge takes up to {MOST} networks." if left else "")

    def read(self, text: str) -> list[NetworkRow]:
        """Return the rows. Raises ToolError for a strength that is empty or no number."""
        found = []
        for name, strength, te, unet, blocks in _cells(text):
            given = _number(strength, name, "strength")
            if given is None:
                raise ToolError(f"{name} has no strength; give a number, 1 is what was trained")
            te, unet = _number(te, name, "text encoder strength"), _number(unet, name, "UNet strength")
            found.append(NetworkRow(name, given, te, unet, str(blocks or "").strip()))
        return found

    def options(self, entries: Sequence[NetworkRow]) -> dict[str, Any]:
        """Return the rows as a tool's options. Raises ToolError for a network that is gone, PromptError for unknown block weights."""
        if not entries:
            raise ToolError("no network is chosen; add one from the list")
        found: dict[str, Any] = {"models": [self.picker.path(entry.name) for entry in entries]}
        found["ratios"] = [entry.strength for entry in entries]
        for name in ("te", "unet"):
            given = [getattr(entry, name) for entry in entries]
            if any(value is not None for value in given):
                found[name] = [entry.strength if value is None else float(value) for entry, value in zip(entries, given)]
        if any(entry.blocks for entry in entries):
            found["lbw"] = [self._weights(entry.blocks) for entry in entries]
        return found

    def _weights(self, text: str) -> str:
        """Return block weights as numbers: the tools do not know the presets of this host."""
        presets = self.context.store.presets()
        if not text:
            return "-"
        return presets.weights(text).format() if text in presets.weight_names else text

    def show(self, entries: Sequence[NetworkRow | Sequence[Any]], said: str = "") -> list[Update]:
        """Return the updates of ``outputs`` for these rows; a row may hold texts that are no numbers yet."""
        rows = [_texts(entry) for entry in entries]
        return [gr.update(value=json.dumps(rows, ensure_ascii=False)), gr.update(value=self._html(rows, said))]

    def add(self, name: str | None, text: str) -> list[Update]:
        """Add a network below the others, and clear the list that it was chosen from."""
        if not name:
            return [gr.update(), *(gr.update() for _ in self.outputs)]
        return [gr.update(value=None), *self._taken([name], text)]

    def _with(self, names: Sequence[str], text: str) -> list[Any]:
        """Return the rows with these networks behind them, at the strengths that the user prefers."""
        return [*_cells(text), *(NetworkRow(name, self.context.preferred(name)) for name in names)]

    def _html(self, rows: Sequence[Sequence[Any]], said: str = "") -> str:
        note = f'<p class="lyco_note bad">{escape(said)}</p>' if said else ""
        if not rows:
            return f'{note}<p class="lyco_state">No network yet: choose one above.</p>'
        try:
            presets = self.context.store.presets().weight_names
        except PromptError as error:  # a broken file of presets: the table works without names
            presets, note = (), note + f'<p class="lyco_note bad">{escape(str(error))}</p>'
        headings = ("Network", *(heading for _, heading, _ in NUMBERS), "Block weights", "")
        head = "".join(f'<th scope="col">{heading or "<span class=lyco_unseen>Remove</span>"}</th>' for heading in headings)
        offered = "".join(f'<option value="{escape(preset)}"></option>' for preset in presets)
        body = "".join(_row(self.id, number, row) for number, row in enumerate(rows))
        return (
            f'{note}<div class="lyco_scroll"><table class="lyco_networks" data-lyco-rows="{self.id}_rows"><thead><tr>{head}</tr></thead>'
            f'<tbody>{body}</tbody></table></div><datalist id="{self.id}_presets">{offered}</datalist>'
        )


def rows_of_prompt(prompt: str) -> list[NetworkRow]:
    """Return a prompt's tags as rows. Raises ToolError for one without tags, or with a tag that no file can hold."""
    found = []
    for tag in find_tags(prompt)[1]:
        if isinstance(tag, TagError):
            raise ToolError(str(tag))
        found.append(_of_tag(tag))
    if not found:
        raise ToolError("the prompt has no tag; write one such as <lyco:style:0.7>")
    return found


def _of_tag(tag: Tag) -> NetworkRow:
    plain = Tag.of(tag.name, tag.te, tag.unet, weights=tag.weights)
    if tag != plain or tag.te.changes or tag.unet.changes:
        raise ToolError(f"{tag.text or tag.format()} cannot be merged: a merge holds strengths and block weights, the same at every step")
    blocks = tag.weights.format() if isinstance(tag.weights, BlockWeights) else tag.weights or ""
    te, unet = tag.te.value(0, 1), tag.unet.value(0, 1)
    return NetworkRow(unescape_name(tag.name), te, None, None if unet == te else unet, blocks)


def _row(table: str, number: int, row: Sequence[Any]) -> str:
    name, cells = escape(str(row[0])), []
    for value, (field, heading, hint) in zip(row[1:4], NUMBERS):
        cells.append(
            f'<td data-label="{heading}"><input type="number" step="0.05" data-cell id="{table}_row{number}_{field}"'
            f' value="{escape(value)}" placeholder="{hint}" aria-label="{heading} of {name}"></td>'
        )
    return (
        f'<tr id="{table}_row{number}" data-name="{name}"><th scope="row">{name}</th>{"".join(cells)}<td data-label="Block weights">'
        f'<input data-cell id="{table}_row{number}_blocks" list="{table}_presets" value="{escape(row[4])}" placeholder="all 1"'
        f' aria-label="Block weights of {name}"></td><td><button type="button" class="lyco_button" id="{table}_row{number}_remove"'
        f' data-lyco-remove aria-label="Remove {name}">✕</button></td></tr>'
    )


def _texts(entry: NetworkRow | Sequence[Any]) -> list[str]:
    name, *values = astuple(entry) if isinstance(entry, NetworkRow) else entry
    return [str(name), *("" if value is None else value if isinstance(value, str) else format_number(value) for value in values)]


def _cells(text: str) -> list[list[Any]]:
    """Return the rows as the browser holds them; none for a text that is no table."""
    try:
        found = parse_json(text or EMPTY)
    except ValueError:
        return []
    return [row for row in found if isinstance(row, list) and len(row) == 5] if isinstance(found, list) else []


def _number(value: Any, name: str, what: str) -> float | None:
    if value in (None, ""):
        return None
    try:
        return float(str(value).replace(",", "."))
    except ValueError:
        raise ToolError(f'{name}: its {what} is "{str(value)[:20]}", which is no number') from None
