"""The page Results: the jobs that wait, every job that ended and every image, of earlier days too, and what can be done with them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import gradio as gr

from ...errors import LycorisError, ToolError
from ...plain_json import parse_json
from ...tools.jobs.queue import Job
from ...tools.units import megabytes
from ...wording import counted, took
from ..context import PageContext
from ..events import QUICK, Update, tab_of
from ..parts.generation.images import ImageFolder, text_of, thumbnail
from ..parts.tools.history import DELETED, Entry, History
from ..parts.tools.job_panel import words
from ..style import REFRESH, idle, notes

SHOWN, IMAGES = 50, 48
SIDE = 160  # pixels of an image
OWNER = "lyco_results"


class ResultsPage:
    """Builds the page; its buttons name an action and an entry of the list, never a file."""

    def __init__(self, context: PageContext) -> None:
        self.context = context
        folder = context.store.kept_folder()
        self.history = History(folder)
        self.images = ImageFolder(folder / "images", lambda *_: None)
        context.told_of_jobs.append(self.ended)

    def ended(self, job: Job) -> None:
        """Keep a job that ended, but for one that made what only this program reads again."""
        declared = self.context.jobs.tools.get(job.tool)
        if declared is None or any(option.kind == "output" and option.makes != "file" for option in declared.options):
            self.history.add(job)

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        with gr.Row(elem_classes=["lyco_buttons"]):
            refresh = gr.Button(REFRESH, size="sm", elem_id="lyco_results_look", scale=0, min_width=40, elem_classes=["lyco_refresh"])
            notify = '<button type="button" class="lyco_button" data-lyco-notify>Tell me when a long job ends</button>'
            gr.HTML(notify, elem_id="lyco_results_notify")
            empty = gr.Button(
                "Empty the folder of deleted files", size="sm", elem_id="lyco_results_empty", scale=0, min_width=220,
                elem_classes=["lyco_ask"],
            )  # fmt: skip
        self.told = gr.HTML("", elem_id="lyco_results_told")
        self.list = gr.HTML(idle("Nothing yet."), elem_id="lyco_results_list")
        self.action = gr.Textbox("", elem_id="lyco_results_action", elem_classes=["lyco_hidden"], show_label=False, container=False)
        outputs = [self.list, self.told]
        refresh.click(self.shown, None, outputs, **QUICK)
        empty.click(self.emptied, None, outputs, **QUICK)
        self.action.input(self.act, self.action, outputs, **QUICK)
        tab_of(refresh).select(self.shown, None, outputs, **QUICK)

    def shown(self, said: str = "") -> tuple[Update, Update]:
        """Return the page as it is now."""
        parts = [self._queue(), self._jobs(), self._images(), self._deleted()]
        return gr.update(value="".join(parts)), gr.update(value=said)

    def emptied(self) -> tuple[Update, Update]:
        """Remove what was deleted, for good."""
        try:
            self.history.empty()
        except LycorisError as error:
            return self.shown(notes(errors=[str(error)]))
        return self.shown(notes(applied=["The folder of deleted files is empty."]))

    def act(self, text: str) -> tuple[Update, Update]:
        """Do what a button of the list asks for."""
        try:
            asked = parse_json(text)
            does = {"cancel": self._cancel, "up": self._up, "again": self._again, "undo": self._undo, "delete": self._delete,
                    "show": self._show, "use": self._use, "delete_image": self._delete_image, "show_image": self._show_image,
                    }[asked["do"]]  # fmt: skip
            said = does(str(asked["id"]))
        except LycorisError as error:
            return self.shown(notes(errors=[str(error)]))
        except (ValueError, KeyError, TypeError):
            return self.shown(notes(errors=["this button is not known here; reload the page"]))
        return self.shown(notes(applied=[said]))

    def _cancel(self, name: str) -> str:
        self.context.jobs.get(name).cancel()
        return "The job is stopped."

    def _up(self, name: str) -> str:
        self.context.jobs.move_up(name)
        return "The job begins earlier."

    def _again(self, name: str) -> str:
        entry = self.history.entry(name)
        options = dict(entry.options)
        if "save_to" in options:
            options["save_to"] = _free(Path(str(options["save_to"])))
        if "undo_file" in options and entry.tool == "merge":
            options["undo_file"] = Path(options["save_to"]).with_suffix(".undo")
        job = self.context.jobs.start(entry.tool, options, OWNER)
        name = Path(str(options["save_to"])).name if "save_to" in options else "before"
        return f"{self._pretty(entry.tool)} runs again, as {name} ({job.status})."

    def _undo(self, name: str) -> str:
        entry = self.history.entry(name)
        if not _undoable(entry):
            raise ToolError("this result has no undo file any more")
        merged, undo_file = entry.outputs[:2]
        original = Path(str(entry.options["sd_model"]))
        place = _free(merged.with_name(f"{original.stem if merged.is_file() else original.name}-restored{merged.suffix}"))
        self.context.jobs.start("undo", {"merged": merged, "undo_file": undo_file, "save_to": place}, OWNER)
        return f"The original is written again, as {place.name}."

    def _delete(self, name: str) -> str:
        files = self.history.entry(name).files
        if not files:
            raise ToolError("its files are not there any more")
        place = self.history.delete(files)
        self.context.store.refresh()
        return f"Moved to {place}, which can be emptied above."

    def _delete_image(self, name: str) -> str:
        return f"Moved to {self.history.delete([self.images.path(name)])}, which can be emptied above."

    def _use(self, name: str) -> str:
        files = self.history.entry(name).files
        if not files:
            raise ToolError("its file is not there any more")
        return self.context.use(files[0])

    def _show(self, name: str) -> str:
        return self._opened(self.history.entry(name).files)

    def _show_image(self, name: str) -> str:
        return self._opened([self.images.path(name)])

    def _opened(self, files: Sequence[Path]) -> str:
        if not self.context.any_path or not files:
            raise ToolError("its folder cannot be shown here")
        opener = {"win32": "explorer", "darwin": "open"}.get(sys.platform, "xdg-open")
        try:
            subprocess.Popen([opener, str(files[0].parent)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise ToolError(f"there is no program {opener} here; the file is {files[0]}") from error
        return f"Shown: {files[0].parent}"

    def _pretty(self, tool: str) -> str:
        known = self.context.jobs.tools.get(tool)
        return known.pretty if known is not None else tool

    def _queue(self) -> str:
        jobs = [job for job in self.context.jobs.all() if job.status == "running"] + self.context.jobs.waiting()
        rows = []
        for place, job in enumerate(jobs):
            up = _button("up", job.id, "Earlier") if job.status == "waiting" and place > 1 else ""
            how = job.status if job.progress is None or job.status == "waiting" else words(job.progress)
            rows.append(f"<li><b>{escape(self._pretty(job.tool))}</b> {escape(how)} {up}{_button('cancel', job.id, 'Cancel')}</li>")
        return f'<h2 class="lyco_heading3">Running and waiting</h2><ul class="lyco_results">{"".join(rows)}</ul>' if rows else ""

    def _jobs(self) -> str:
        entries = self.history.entries()
        if not entries:
            return '<p class="lyco_state">No job has made a file yet.</p>'
        rows = "".join(self._row(entry) for entry in entries[:SHOWN])
        more = f"<p>... and {len(entries) - SHOWN} older ones</p>" if len(entries) > SHOWN else ""
        return f'<h2 class="lyco_heading3">Files</h2><ul class="lyco_results">{rows}</ul>{more}'

    def _row(self, entry: Entry) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.when))
        files, buttons = entry.files, [_button("again", entry.id, "Run again")]
        sizes = [f"{escape(path.name)} ({'a folder' if path.is_dir() else megabytes(path.stat().st_size)})" for path in files]
        if files and self.context.any_path:
            links = [_download(path) for path in files if path.is_file()]
            buttons += [*links, _button("show", entry.id, "Show in folder")]
        if files and self.context.use_checkpoint is not None and entry.tool in ("merge", "undo"):
            buttons.append(_button("use", entry.id, "Use as checkpoint"))
        if _undoable(entry):
            buttons.append(_button("undo", entry.id, "Undo"))
        if files:
            buttons.append(_button("delete", entry.id, "Delete", f"Delete {files[0].name}? It goes to the folder of deleted files."))
        what = ", ".join(sizes) or f"{escape(entry.outputs[0].name)} is not there any more"
        return f"<li><b>{escape(self._pretty(entry.tool))}</b> {when}, {took(entry.seconds)}: {what}<br>{''.join(buttons)}</li>"

    def _images(self) -> str:
        found = self.images.newest(IMAGES)
        cells = []
        for path in found:
            ask = f"Delete {path.name}? It goes to the folder of deleted files."
            address = f"/file={quote(str(path))}"
            picture = f'<img src="{thumbnail(path, SIDE)}" alt="{escape(path.name)}" loading="lazy">'
            link = f'<a href="{address}" download="{escape(path.name)}">{picture}</a>' if self.context.any_path else picture
            buttons = [
                _settings(path) if self.context.send == "Generate" else "",
                *([_button("show_image", path.name, "Show in folder")] if self.context.any_path else []),
            ]
            buttons.append(_button("delete_image", path.name, "Delete", ask))
            facts = f"<span>{escape(path.name)}, {megabytes(path.stat().st_size)}</span>"
            cells.append(f"<li>{link}{facts}{''.join(buttons)}</li>")
        folder = escape(str(self.images.folder))
        return f'<h2 class="lyco_heading3">Images in {folder}</h2><ul class="lyco_images">{"".join(cells)}</ul>' if cells else ""

    def _deleted(self) -> str:
        count, size = self.history.deleted()
        files = f"{counted(count, 'deleted file')}, {megabytes(size)}, can be brought back by hand from"
        return f"<p>{files} {escape(str(self.history.folder / DELETED))}.</p>" if count else ""


def _button(does: str, name: str, label: str, ask: str = "") -> str:
    question = f' data-lyco-ask="{escape(ask)}"' if ask else ""
    return f'<button type="button" class="lyco_button" data-lyco-do="{does}" data-id="{escape(name)}"{question}>{label}</button>'


def _settings(path: Path) -> str:
    """Return the button that puts an image's settings into the fields of Generate; nothing for an image without any."""
    try:
        text = text_of(path)
    except ToolError:
        return ""
    return f'<button type="button" class="lyco_button" data-lyco-settings="{escape(text)}">Use its settings</button>' if text else ""


def _download(path: Path) -> str:
    name = escape(path.name)
    return f'<a class="lyco_button" href="/file={quote(str(path))}" download="{name}">Download {name}</a>'


def _undoable(entry: Entry) -> bool:
    return entry.tool == "merge" and len(entry.outputs) > 1 and len(entry.files) == len(entry.outputs) and "sd_model" in entry.options


def _free(path: Path) -> Path:
    """Return a path of this name that is free."""
    names: Mapping[int, Path] = {number: path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, 1000)}
    return path if not path.exists() else next((one for one in names.values() if not one.exists()), path)
