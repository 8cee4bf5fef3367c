"""What a run would do, shown while its fields are filled in: what fits, size, time, memory. Looks at files in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ....errors import LycorisError, ModelMismatchError
from ....models import count_layers
from ....networks.reading.folder import file_of
from ....networks.reading.header import read_metadata
from ....tools.declaration import Plan, Tool, as_list
from ....tools.files.store import FileStore
from ....tools.reshape.shrink import UnchangedError
from ....tools.units import megabytes
from ....wording import counted, duration
from ...context import PageContext
from ...events import QUICK, Update, by_hand, on_any
from ...style import idle, notes
from ..file_choice import Picker
from .fields import as_shown, with_fields
from .job_panel import Make

PAUSE = 0.5  # seconds without a change before the files are looked at
SHOWN = 40  # keys that are listed
BASES = ("base_model", "sd_model")  # options that are the base model of networks
TRIED = 12  # checkpoints, before none is offered
USE = "Use "


class LivePlan:
    """A text that follows the fields of a page; of several changes in a row only the last is planned."""

    def __init__(self, context: PageContext, name: str, empty: str) -> None:
        self.context = context
        self.name = name
        self.empty = empty  # what is said as long as nothing is chosen
        self._fitting: str | None = None  # a checkpoint that the networks of the newest plan fit, where they do not fit the chosen one
        self._newest = 0
        self._followed: tuple[Any, ...] = ()  # the fields' values that the newest plan is, or will be, of
        self._count = threading.Lock()
        self._busy = threading.Lock()

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        self.component = gr.HTML(idle(self.empty), elem_id=f"lyco_{self.name}_plan", elem_classes=["lyco_plan"])
        self.button = gr.Button(USE, visible=False, size="sm", elem_id=f"lyco_{self.name}_use_base")

    def watch(
        self, fields: Sequence[Any], make: Make, ready: Callable[..., bool] = lambda *_: True,
        inputs: Sequence[Any] | None = None, events: Sequence[Any] = (), more: Sequence[Any] = (), base: Picker | None = None,
    ) -> None:  # fmt: skip
        """Plan anew when the user changes a field, and at the start: ``make`` as for JobPanel.start; nothing as long as not ``ready``.

        ``inputs``: what ``make`` is called with, where that is more than the fields; ``events``: what else to follow, as click() returns;
        ``more``: events of components that are followed too; ``base``: the base model's field, where a checkpoint that fits is offered.
        """

        def shown(update: Update) -> Any:
            """Return the button's update with the plan's: at a change of the plan it would ask without end, for Gradio 4 tells of many."""
            return update if base is None else (update, self.offered())

        def follow(*values: Any) -> Any:
            return shown(self.update(make, ready, values))

        def settle(*values: Any) -> Any:
            """Plan what the fields say now: Gradio 3 drops a change that comes while the one before is still worked on."""
            return shown(gr.update() if values == self._followed else self.update(make, ready, values, 0.0))

        outputs = self.component if base is None else [self.component, self.button]

        wanted = list(fields if inputs is None else inputs)
        changes = [field.change if hasattr(field, "lyco_picker") else by_hand(field) for field in fields]
        on_any([*changes, *more], follow, wanted, outputs, settle)
        for event in events:
            event.then(follow, wanted, outputs, show_progress="hidden")
        self.context.after_load(lambda *values: shown(self.update(make, ready, values, 0.0)), wanted, outputs)
        if base is not None:
            self.button.click(lambda said: base.take(said.removeprefix(USE)), self.button, base.component, **QUICK)

    def offered(self) -> Update:
        """Return the update of the button that chooses a checkpoint which fits; hidden where there is none."""
        return gr.update(value=f"{USE}{self._fitting}", visible=True) if self._fitting else gr.update(visible=False)

    def update(self, make: Make, ready: Callable[..., bool], values: Sequence[Any], pause: float | None = None) -> Update:
        """Wait for a pause, then return the component's update; nothing if the fields changed again meanwhile."""
        with self._count:
            self._newest += 1
            mine, self._followed = self._newest, tuple(values)
        time.sleep(PAUSE if pause is None else pause)
        if mine != self._newest:
            return gr.update()
        self._fitting = None
        if not ready(*values):
            return gr.update(value=idle(self.empty))
        with self._busy:  # one look at a time; those that became old while they waited are left out
            if mine != self._newest:
                return gr.update()
            try:
                tool_name, options = make(*values)
                return gr.update(value=self._planned(self.context.jobs.tool(tool_name), options))
            except LycorisError as error:
                return gr.update(value=notes(problems=[str(error)]))
            except (OSError, RuntimeError, ValueError) as error:
                return gr.update(value=notes(problems=[f"what would happen cannot be told: {type(error).__name__}: {error}"]))

    def _planned(self, tool: Tool, options: Mapping[str, Any]) -> str:
        try:
            return as_html(tool.plan(**options), tool, self.context.store)
        except ModelMismatchError as error:
            self._fitting = fitting_checkpoint(self.context.store, tool, options)
            hint = f" It fits {self._fitting}." if self._fitting else ""
            return notes(problems=[as_shown(str(error), tool, self.context.store) + hint])
        except LycorisError as error:
            return notes(problems=[as_shown(str(error), tool, self.context.store)])


def fitting_checkpoint(store: FileStore, tool: Tool, options: Mapping[str, Any]) -> str | None:
    """Return the name of the first checkpoint with which a tool's plan works; those are tried that are likeliest."""
    option = next((o.name for o in tool.options if o.name in BASES), None)
    networks = [path for o in tool.options if o.kind in ("network", "networks") for path in as_list(options.get(o.name))]
    if option is None or not networks:
        return None
    trained_on, loaded = {_trained_on(path) for path in networks}, store.loaded()
    files = sorted(store.checkpoints(), key=lambda file: (file.path.name not in trained_on, loaded is None or file.path != loaded.path))
    for file in [file for file in files if file.path != options.get(option)][:TRIED]:
        with suppress(LycorisError, OSError, RuntimeError, ValueError):  # this one does not, for whatever reason
            with suppress(UnchangedError):  # it does; what is asked for changes nothing, which is said once it is chosen
                tool.plan(**{**options, option: file.path})
            return file.name
    return None


def _trained_on(network: Path) -> str:
    """Return the file name of the checkpoint that a network says it was trained on."""
    try:
        said = read_metadata(file_of(network)).get("ss_sd_model_name", "")
    except (LycorisError, OSError):
        return ""
    return said.replace("\\", "/").rpartition("/")[2]


def as_html(plan: Plan, tool: Tool, store: FileStore) -> str:
    """Return a plan as people read it; what fits no layer is behind a line to open."""
    unmatched = plan.report.get("unmatched") or []
    lines = as_shown(plan.text, tool, store).splitlines()
    text = "\n".join(line for line in lines if not (unmatched and line.startswith("  ")))
    return f'<div role="status">{_figures(plan.report, plan)}<p class="lyco_plan_text">{escape(text)}</p>{_keys(unmatched, tool)}</div>'


def _figures(facts: Mapping[str, Any], plan: Plan) -> str:
    found = []
    matched = facts.get("matched")
    if "changed_tensors" in facts:
        found.append(("layers changed", f"{facts['changed_tensors']} of {facts['tensors']}"))
    elif kind := next((name for name in ("files", "words") if name in facts), ""):
        found.append((kind, str(len(facts[kind]) if isinstance(facts[kind], list) else facts[kind])))
    elif matched is not None:
        found.append(("layers", str(matched if isinstance(matched, int) else count_layers(matched))))
    elif "tensors" in facts:
        found.append(("tensors compared", str(facts["tensors"])))
    if facts.get("unmatched"):
        found.append(("keys not used", str(len(facts["unmatched"]))))
    if plan.disk_bytes:  # 0: nothing is written
        found.append(("file", megabytes(plan.disk_bytes)))
    if plan.seconds is not None:
        found.append(("time", f"about {duration(max(plan.seconds, 1))}"))
    if plan.memory_bytes is not None:
        found.append(("memory", megabytes(plan.memory_bytes)))
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in found)
    return f'<dl class="lyco_figures">{cells}</dl>'


def _keys(unmatched: Sequence[Sequence[Any]], tool: Tool) -> str:
    if not unmatched:
        return ""
    reasons = [(str(key), with_fields(str(reason), tool)) for key, reason in unmatched[:SHOWN]]
    rows = "".join(f"<li><code>{escape(key)}</code> {escape(reason)}</li>" for key, reason in reasons)
    more = f"<li>... and {len(unmatched) - SHOWN} more</li>" if len(unmatched) > SHOWN else ""
    return f'<details class="lyco_details"><summary>{counted(len(unmatched), "key")} not used</summary><ul>{rows}{more}</ul></details>'
