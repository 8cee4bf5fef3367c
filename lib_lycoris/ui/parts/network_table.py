"""A table of networks with their strengths: add, remove, reorder. Its rows are built once and shown as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ...errors import PromptError, ToolError
from ..context import PageContext
from .file_choice import network_picker

MOST = 12  # rows
COLUMNS = 4  # components of a row that hold values: strength, text encoder, UNet, block weights
EMPTY = (1.0, None, None, "")
Update = dict[str, Any]


@dataclass(frozen=True)
class NetworkRow:
    """One row: a network's name and its strengths; None for one that follows the first."""

    name: str
    strength: float = 1.0
    te: float | None = None
    unet: float | None = None
    blocks: str = ""  # a preset's name, or values with commas


class NetworkTable:
    """The components of the table, and what happens at a click."""

    def __init__(self, context: PageContext, page: str) -> None:
        self.context = context
        self.id = f"lyco_{page}"
        self._rows: list[Any] = []
        self._names: list[Any] = []
        self._values: list[Any] = []
        self._buttons: list[tuple[Any, Any, Any]] = []

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        self.picker = network_picker(self.context.store, "Add a network", f"{self.id}_add")
        self.names = gr.State([])
        try:
            presets = ["", *self.context.store.presets().weight_names]
        except PromptError as error:  # a broken file of presets: the table works without names
            presets = [""]
            gr.HTML(escape(str(error)))
        with gr.Column(elem_classes=["lyco_table"]):
            for number in range(MOST):
                self._build_row(number, presets)
        self._wire()

    def _build_row(self, number: int, presets: list[str]) -> None:
        with gr.Row(visible=False, elem_id=f"{self.id}_row{number}", elem_classes=["lyco_row"]) as row:
            self._names.append(gr.HTML("", elem_classes=["lyco_row_name"]))
            for label, value in (("Strength", 1.0), ("Text enc.", None), ("UNet", None)):
                place = {"Text enc.": "te"}.get(label, label.lower())
                self._values.append(
                    gr.Number(
                        value=value, label=label, elem_id=f"{self.id}_row{number}_{place}", min_width=60, elem_classes=["lyco_number"]
                    )
                )
            self._values.append(
                gr.Dropdown(
                    presets, value="", label="Block weights", allow_custom_value=True, elem_id=f"{self.id}_row{number}_blocks",
                    min_width=110, elem_classes=["lyco_blocks_of_row"],
                )
            )  # fmt: skip
            with gr.Row(elem_classes=["lyco_row_buttons"]):
                words = (("↑", "up"), ("↓", "down"), ("✕", "remove"))
                up, down, away = (
                    gr.Button(sign, size="sm", elem_id=f"{self.id}_row{number}_{what}", elem_classes=["lyco_small"], min_width=30)
                    for sign, what in words
                )
            self._buttons.append((up, down, away))
        self._rows.append(row)

    def _wire(self) -> None:
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
        self.events = [
            self.picker.component.input(self.add, [self.picker.component, *self.inputs], [self.picker.component, *self.outputs], **quick)
        ]
        for number, (up, down, away) in enumerate(self._buttons):
            self.events.append(up.click(self._mover(number, number - 1), self.inputs, self.outputs, **quick))
            self.events.append(down.click(self._mover(number, number + 1), self.inputs, self.outputs, **quick))
            self.events.append(away.click(self._remover(number), self.inputs, self.outputs, **quick))

    @property
    def inputs(self) -> list[Any]:
        """The components that :meth:`read` takes the values of."""
        return [self.names, *self._values]

    @property
    def fields(self) -> list[Any]:
        """The components of which a change changes what :meth:`read` gives."""
        return list(self._values)

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`show` updates."""
        return [self.names, *self._rows, *self._names, *self._values]

    def read(self, values: Sequence[Any]) -> list[NetworkRow]:
        """Return the rows. Raises ToolError for an empty strength."""
        names, cells = values[0] or [], values[1:]
        found = []
        for number, name in enumerate(names):
            strength, te, unet, blocks = cells[number * COLUMNS : (number + 1) * COLUMNS]
            if strength is None:
                raise ToolError(f"{name} has no strength; give a number, 1 is what was trained")
            found.append(NetworkRow(name, float(strength), te, unet, (blocks or "").strip()))
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

    def show(self, entries: Sequence[NetworkRow]) -> list[Any]:
        """Return the updates of ``outputs`` for these rows."""
        shown = [*entries, *[None] * (MOST - len(entries))]
        rows = [gr.update(visible=entry is not None) for entry in shown]
        names = [gr.update(value=_title(entry)) for entry in shown]
        values = [gr.update(value=value) for entry in shown for value in _cells(entry)]
        return [[entry.name for entry in entries], *rows, *names, *values]

    def add(self, name: str | None, *values: Any) -> list[Any]:
        """Add a network below the others, and clear the list that it was chosen from."""
        entries = self._as_they_are(values)
        if not name or len(entries) >= MOST:
            return [gr.update(), *[gr.update() for _ in self.outputs]]
        return [gr.update(value=None), *self.show([*entries, NetworkRow(name)])]

    def _mover(self, number: int, to: int) -> Callable[..., list[Any]]:
        def move(*values: Any) -> list[Any]:
            entries = self._as_they_are(values)
            if 0 <= to < len(entries) and number < len(entries):
                entries[number], entries[to] = entries[to], entries[number]
            return self.show(entries)

        return move

    def _remover(self, number: int) -> Callable[..., list[Any]]:
        def remove(*values: Any) -> list[Any]:
            entries = self._as_they_are(values)
            return self.show(entries[:number] + entries[number + 1 :])

        return remove

    def _as_they_are(self, values: Sequence[Any]) -> list[NetworkRow]:
        """Return the rows with fields that are empty for now."""
        cells = list(values[1:])
        return [NetworkRow(name, *cells[number * COLUMNS : (number + 1) * COLUMNS]) for number, name in enumerate(values[0] or [])]


def _title(entry: NetworkRow | None) -> str:
    return "" if entry is None else f'<span class="lyco_name_of_row" title="{escape(entry.name)}">{escape(entry.name)}</span>'


def _cells(entry: NetworkRow | None) -> tuple[Any, ...]:
    return EMPTY if entry is None else (entry.strength, entry.te, entry.unet, entry.blocks)
