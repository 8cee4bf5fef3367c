"""What every page is handed: files, jobs, kept settings, the program that generates; and the wiring that needs the whole UI to be built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import LycorisError, ToolError
from ..hosts.protocol import Generator, NetworkCards
from ..records import dataclass
from ..tools.files.store import FileStore
from ..tools.jobs.places import SUFFIX, new_file
from ..tools.jobs.queue import Job, Jobs
from .events import by_hand, on_any
from .loaded import LoadedModel
from .parts.file_choice import wire_pickers
from .parts.generation.making import Maker
from .settings import Settings
from .style import scripted

Wire = Callable[[Any], Any]  # is handed the gr.Blocks when all pages are built
Load = tuple[Callable[[], Any], list[Any]]


@dataclass(frozen=True)
class Receiver:
    """A page's part that takes networks which were chosen elsewhere: ``take(names, *values of inputs)`` returns updates of ``outputs``."""

    take: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]
    most: int | None = None  # networks that it takes at a time


@dataclass
class PageContext:
    """The things that the pages work with; one for each time the UI is built."""

    store: FileStore
    jobs: Jobs
    generator: Generator | None = None
    settings: Settings = field(default_factory=lambda: Settings(None))
    send: str = ""  # the page whose prompt takes tags: "txt2img" or "Generate"; empty where there is none
    use_checkpoint: Callable[[Path], str] | None = None  # makes images with a checkpoint file from now on; returns a sentence
    checkpoint_title: Callable[[Path], str] | None = None  # what a host with a list of its own calls a checkpoint there
    networks: NetworkCards | None = None  # what a page shows of the network files
    any_path: bool = False  # whether the user may name files anywhere on this machine: not where others can open the page
    receivers: dict[str, Receiver] = field(default_factory=dict)  # pages that take chosen networks: "Merge", "Compare", ...
    trains_here: bool = False  # whether this process's own packages may train: the app's, never a webui's
    maker: Maker = field(default_factory=Maker)  # makes images, one piece of work at a time for all pages
    unload: Callable[[], str] | None = None  # gives the memory of the loaded model back until it is used again; returns a sentence
    told_of_jobs: list[Callable[[Job], None]] = field(default_factory=list)  # are told of each job that ran, before its end is seen
    used: Path | None = None  # the checkpoint that was chosen here last
    loaded: LoadedModel = field(init=False)
    _used: list[Path] = field(default_factory=list)  # checkpoints that images were made with before
    _wires: list[Wire] = field(default_factory=list)
    _loads: list[Load] = field(default_factory=list)
    _after: list[tuple[Callable[..., Any], list[Any], Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loaded = LoadedModel(lambda: self.generator, self.store)
        self.jobs.on_end = self._job_ended

    def _job_ended(self, job: Job) -> None:
        for told in self.told_of_jobs:
            told(job)
        if job.result is not None and job.result.outputs:
            self.store.refresh()  # what it made is in every list when its end is seen

    def new_network(self, name: str) -> Path:
        """Return the path of a new network of this name. Raises ToolError for a bad name or one that is taken."""
        return new_file(self.store.network_folder(), name)

    def new_checkpoint(self, name: str, a_folder: bool = False) -> Path:
        """Return the path of a new checkpoint of this name: a file, or a folder in diffusers' layout. Raises ToolError as above."""
        return new_file(self.store.checkpoint_folder(), name, "" if a_folder else SUFFIX)

    def use(self, path: Path) -> str:
        """Make images with a checkpoint from now on; return a sentence. Raises LycorisError, and all stays as it was."""
        if self.use_checkpoint is None:
            raise ToolError("images are not made here")
        before = self.store.loaded()
        said = self.use_checkpoint(path)
        self.used = path
        if before is not None and before.path != path:
            self._used = [*self._used, before.path][-20:]
        return said

    @property
    def has_one_before(self) -> bool:
        """Tell whether :meth:`use_the_one_before` has something to go back to."""
        return bool(self._used)

    def use_the_one_before(self) -> str:
        """Go back to the checkpoint that was used before this one; return a sentence. Raises LycorisError if there is none."""
        if not self._used or self.use_checkpoint is None:
            raise ToolError("no other checkpoint was used before this one")
        said = self.use_checkpoint(self._used[-1])
        self.used = self._used.pop()
        return said

    def fits_loaded(self, names: Sequence[str]) -> bool:
        """Tell whether networks may be for the loaded model: False where a file's layers are not those of that model."""
        paths = {file.name: file.path for file in self.store.networks()}
        return all(self.loaded.fits(paths[name]) for name in names if name in paths)

    def preferred(self, name: str) -> float:
        """Return the strength that the user prefers for a network, 1 if nothing is known."""
        try:
            found = self.networks.card(name).preferred if self.networks is not None else None
        except LycorisError:
            found = None
        return 1.0 if found is None else found

    def later(self, wire: Wire) -> None:
        """Have a function called with the gr.Blocks when all pages are built, inside its context."""
        self._wires.append(wire)

    def on_load(self, function: Callable[[], Any], outputs: Sequence[Any]) -> None:
        """Call a function each time the UI is opened in a browser, for the updates of components; it should take no time.

        All of them are one event: Gradio 3 gives up on some of many that are started at once.
        """
        self._loads.append((function, list(outputs)))

    def after_load(self, function: Callable[..., Any], inputs: Sequence[Any], outputs: Any) -> None:
        """Call a function each time the UI is opened, when what :meth:`on_load` brings is there; it should mostly take no time."""
        self._after.append((function, list(inputs), outputs))

    def on_return(self, elem_id: str, found: Callable[[], Any], follow: Callable[[], Any], outputs: Sequence[Any]) -> None:
        """Show work that goes on to somebody who opens the UI: ``follow()`` yields updates of ``outputs`` until its end.

        ``found()`` returns the updates for the moment, and behind them what this work is known by, or gr.update() where none goes on.
        """
        following = gr.Textbox("", elem_id=elem_id, elem_classes=["lyco_hidden"], show_label=False, container=False)
        self.on_load(found, [*outputs, following])
        following.change(follow, None, list(outputs), show_progress="hidden")

    def keep(self, page: str, fields: Mapping[str, Any]) -> None:
        """Keep the values of fields between visits: kept under its name what the user puts in, and back when the UI is opened."""

        def keep(*values: Any) -> None:
            for name, value in zip(fields, values):
                self.settings.keep(page, name, value)

        on_any([by_hand(component) for component in fields.values()], keep, list(fields.values()), None, queue=False)
        for name, component in fields.items():
            picker = getattr(component, "lyco_picker", None)
            if picker is not None:  # it puts the value back itself, together with its choices
                picker.kept, picker.keep = partial(self.settings.get, page, name), partial(self.settings.keep, page, name)
            else:
                self.on_load(partial(self._kept, page, name, component), [component])

    def _kept(self, page: str, name: str, component: Any) -> Any:
        value = self.settings.get(page, name)
        return gr.update() if value is None or not fits(component, value) else gr.update(value=value)

    def finish(self, blocks: Any, before: int = 0) -> None:
        """Wire what waited for the whole UI; to be called once, in the context of the gr.Blocks, after all pages.

        The gr.Blocks may be a host's, with components of its own and so many events ``before`` ours.
        """
        wires, self._wires = self._wires, []
        for wire in wires:
            wire(blocks)
        wire_pickers(blocks)
        loads = list(self._loads)
        outputs = [component for _, components in loads for component in components]
        if outputs:
            script = scripted(blocks.load)
            blocks.load(None, None, None, queue=False, **{script: HOLD})
            event = blocks.load(lambda: _all(loads), None, outputs, queue=False, show_progress="hidden")
            event.then(None, None, None, queue=False, **{script: RELEASE})
            for function, inputs, shown in self._after:
                event.then(function, inputs, shown, queue=False, show_progress="hidden")
        unlist(events_of(blocks)[before:])


# what is put in before the kept values are back would be written over by them; an answer that never comes must not lock the page
HOLD = """() => {
    const page = document.getElementById("lyco_page");
    if (page) { page.inert = true; setTimeout(() => { page.inert = false; }, 5000); }
}"""
RELEASE = """() => {
    const page = document.getElementById("lyco_page");
    if (page) { page.inert = false; page.dataset.ready = "true"; }
}"""


def events_of(blocks: Any) -> list[Any]:
    """Return the events of a gr.Blocks in the order in which they were made."""
    return list(blocks.fns.values()) if isinstance(getattr(blocks, "fns", None), dict) else blocks.dependencies


def unlist(events: Sequence[Any]) -> None:
    """Leave events out of Gradio's description of itself: ten times the page's size, and no API that anybody should use."""
    for event in events:
        if isinstance(event, dict):
            event["api_name"] = False
        else:  # Gradio 4
            event.api_name, event.show_api = False, False


def _all(loads: Sequence[Load]) -> Any:
    """Return the updates of all functions in a row, as one event has to."""
    found: list[Any] = []
    for function, outputs in loads:
        updates = function()
        found += [updates] if len(outputs) == 1 and not isinstance(updates, (list, tuple)) else list(updates)
    return found[0] if len(found) == 1 else found


def fits(component: Any, value: Any) -> bool:
    """Tell whether a kept value may be put into a component: the choices may be others by now."""
    choices = getattr(component, "choices", None)
    if choices is None or getattr(component, "allow_custom_value", False):
        return True
    known = [choice[1] if isinstance(choice, (tuple, list)) else choice for choice in choices]
    return all(item in known for item in value) if isinstance(value, list) else value in known
