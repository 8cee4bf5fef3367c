"""Dropdowns for files that stay fast with thousands: a page is sent without any name, and gets them when its tab is opened."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...errors import ToolError
from ...tools.files.store import FileStore, ModelFile
from ..events import QUICK, Update, on_any, sights, tab_of
from ..style import REFRESH

NEAR = 3  # names offered for one that is not there
NO_BASE = "No base model"  # the choice of none, where one may be done without; Gradio 3 takes no updates of choices with other labels


class Picker:
    """A dropdown of the store's files with a button to look at the folders again; a value is a name, never a path."""

    def __init__(self, kind: str, files: Callable[[], Sequence[ModelFile]], refresh: Callable[[], None], none: Sequence[str] = ()) -> None:
        self.kind = kind  # what the files are called in a sentence: "network" or "checkpoint"
        self.none = none  # what stands in the list before the files, for none of them
        self.component: Any = None  # its value is a name, or a list of names with ``multiselect``
        self.button: Any = None
        self.kept: Callable[[], Any] = lambda: None  # the value of the last visit; PageContext.keep sets it
        self.keep: Callable[[str], None] = lambda _: None  # has the value at the next visit; PageContext.keep sets it
        self.default: Callable[[], str | None] = lambda: None  # what is chosen at the first visit
        self._files = files
        self._refresh = refresh

    def build(self, label: str, elem_id: str, multiselect: bool, info: str = "") -> Picker:
        """Add the components to the open gr.Blocks, without any choice; they come when the tab is opened."""
        with gr.Row(elem_classes=["lyco_pick"]):
            self.component = gr.Dropdown(
                choices=[], value=[] if multiselect else None, label=label, info=info or None, multiselect=multiselect,
                elem_id=elem_id,                scale=8, min_width=120, interactive=True,
            )  # fmt: skip
            self.button = gr.Button(
                REFRESH, size="sm", elem_id=f"{elem_id}_refresh", scale=0, min_width=40, elem_classes=["lyco_refresh"]
            )  # fmt: skip
        self.component.lyco_picker = self
        for part in (self.component, self.button):
            part.do_not_save_to_config = True
        return self

    def names(self) -> list[str]:
        """Return the names to choose from."""
        return [file.name for file in self._files()]

    def opened(self, known: int | None, value: Any = None) -> tuple[Update, int]:
        """Return the choices, if the browser has not got these already, and their stamp; at first with the value that was kept."""
        update, stamp = self.listed(known, value)
        first = self.first() if known is None and not value else None
        return ({**update, "value": first} if first else update), stamp

    def first(self) -> Any:
        """Return what is chosen when the UI is opened: what was kept, else the default; None for what is not there any more."""
        kept = self.kept() or self.default()
        wanted = kept if isinstance(kept, list) else [kept]
        return kept if kept and set(wanted) <= {*self.none, *self.names()} else None

    def listed(self, known: int | None, value: Any = None) -> tuple[Update, int]:
        """Return the choices, if the browser has not got these already, and their stamp; who looks at the list chooses himself.

        Several chosen names go with their choices: Gradio 4 keeps their places in the list, and would show those that stand there now.
        """
        names = self.names()
        stamp = hash(tuple(names))
        if stamp == known:
            return gr.update(), stamp
        there = set(names)
        chosen = {"value": [name for name in value if name in there]} if isinstance(value, list) and value else {}
        return gr.update(choices=[*self.none, *names], **chosen), stamp

    def refreshed(self) -> tuple[Update, int]:
        """Look at the folders again and return the choices."""
        self.look()
        return self.listed(None)

    def look(self) -> None:
        """Look at the folders again."""
        self._refresh()

    def shown(self, value: str | Sequence[str] | None) -> Update:
        """Return the update that chooses a name, or several; a dropdown shows only what is among its choices."""
        return gr.update(value=value, choices=[*self.none, *self.names()])

    def take(self, name: str) -> Update:
        """Return the update that chooses a name which the user takes from elsewhere on the page, also for the next visit."""
        self.keep(name)
        return self.shown(name)

    def chosen(self, name: str | None) -> str:
        """Return the name of a file, or nothing where none is chosen."""
        return "" if name is None or name in self.none else name

    def path(self, name: str | None) -> Path:
        """Return the file of a name in the list; raise ToolError with the nearest names for any other text."""
        if not name:
            raise ToolError(f"no {self.kind} is chosen; choose one from the list")
        return self.paths([name])[0]

    def paths(self, names: Iterable[str] | None) -> list[Path]:
        """Return the files of several names, in their order; raise ToolError as :meth:`path` does."""
        files = {file.name: file.path for file in self._files()}
        found = []
        for name in names or ():
            if name not in files:
                raise ToolError(self._missing(str(name), list(files)))
            found.append(files[name])
        return found

    def _missing(self, name: str, names: Sequence[str]) -> str:
        lower: dict[str, str] = {}
        for known in names:
            lower.setdefault(known.lower(), known)
        near = [lower[match] for match in difflib.get_close_matches(name.lower(), list(lower), n=NEAR, cutoff=0.5)]
        hint = (
            f"the nearest in the list: {', '.join(near)}" if near else f"the list has {len(names)}; press {REFRESH} for files that are new"
        )
        return f'there is no {self.kind} called "{name}"; {hint}'


class PickersOfTab:
    """The pickers that come to be seen together: one event brings the choices of them all."""

    def __init__(self, pickers: Sequence[Picker]) -> None:
        self.pickers = pickers

    def wire(self) -> None:
        """Add the events to the open gr.Blocks."""
        components = [picker.component for picker in self.pickers]
        known = gr.State([None] * len(components))  # which lists the browser has: one is sent again only after a change
        for event in sights(components[0]):
            event(self.opened, [known, *components], [*components, known], **QUICK)
        inputs = [known, *(component for component in components if component.multiselect)]  # of the others no value is asked for
        on_any([component.focus for component in components], self.listed, inputs, [*components, known], queue=False)
        on_any([picker.button.click for picker in self.pickers], self.refreshed, inputs, [*components, known], self.listed, queue=False)

    def opened(self, known: Sequence[int | None], *values: Any) -> list[Any]:
        """Return the updates of all pickers as :meth:`Picker.opened` does, and the stamps."""
        return _row(picker.opened(stamp, value) for picker, stamp, value in zip(self.pickers, known, values))

    def listed(self, known: Sequence[int | None], *values: Any) -> list[Any]:
        """Return the updates of all pickers as :meth:`Picker.listed` does, and the stamps; values: of those with several names."""
        several = iter(values)
        chosen = [next(several) if picker.component.multiselect else None for picker in self.pickers]
        return _row(picker.listed(stamp, value) for picker, stamp, value in zip(self.pickers, known, chosen))

    def refreshed(self, known: Sequence[int | None], *values: Any) -> list[Any]:
        """Look at the folders again and return the choices of all pickers, and the stamps."""
        self.pickers[0].look()
        return self.listed([None] * len(known), *values)


def wire_pickers(blocks: Any) -> None:
    """Wire all pickers of a UI, in the context of its gr.Blocks, when all of its components are there."""
    tabs: dict[Any, list[Picker]] = {}
    for component in list(blocks.blocks.values()):
        if (picker := getattr(component, "lyco_picker", None)) is not None:
            tabs.setdefault(tab_of(component), []).append(picker)
    for pickers in tabs.values():
        PickersOfTab(pickers).wire()


def _row(found: Iterable[tuple[Update, int]]) -> list[Any]:
    updates, stamps = zip(*found)
    return [*updates, list(stamps)]


def network_picker(store: FileStore, label: str, elem_id: str, multiselect: bool = False, info: str = "") -> Picker:
    """Add a dropdown of network files to the open gr.Blocks."""
    return Picker("network", store.networks, store.refresh).build(label, elem_id, multiselect, info)


def checkpoint_picker(store: FileStore, label: str, elem_id: str, loaded: bool = True, info: str = "") -> Picker:
    """Add a dropdown of checkpoint files to the open gr.Blocks; at first the one is chosen that images are made with."""
    picker = Picker("checkpoint", store.checkpoints, store.refresh)
    if loaded:
        picker.default = lambda: _loaded(store)
    return picker.build(label, elem_id, False, info)


def base_picker(store: FileStore, label: str, elem_id: str, info: str = "") -> Picker:
    """Add a dropdown of the base models that networks are for, with none among the choices; at first the loaded one is chosen."""
    picker = Picker("checkpoint", store.checkpoints, store.refresh, [NO_BASE])
    picker.default = lambda: _loaded(store)
    return picker.build(label, elem_id, False, info)


def _loaded(store: FileStore) -> str | None:
    found = store.loaded()
    return None if found is None else found.name
