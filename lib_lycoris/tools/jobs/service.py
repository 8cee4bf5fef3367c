"""Jobs for programs that talk to us over HTTP: plain JSON in and out, and no file outside of the folders that are offered."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import LycorisError, ToolError
from ...plain_json import plain
from ...wording import storable
from ..declaration import Option, Tool
from ..files.store import FileStore
from ..validation import typed
from .places import SUFFIX, Taken, free_for_several, known_file, new_file
from .queue import Job, Jobs, NoSuchThing, QueueFull

FILES = (".undo", ".json")  # what a file that is neither network nor checkpoint may be called
TYPES = {int: "integer", float: "number", bool: "boolean"}


class NotReady(ToolError):
    """A result was asked for that is not there."""


class JobService:
    """Starts, shows and stops jobs for callers who are not trusted with paths."""

    def __init__(self, jobs: Jobs, store: FileStore) -> None:
        self.jobs = jobs
        self.store = store

    def schemas(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return for each tool what it does, and the JSON schema of its options."""
        return {name: (f"{tool.pretty}: {tool.summary}", schema(tool)) for name, tool in self.jobs.tools.items()}

    def start(self, tool_name: str, given: Mapping[str, Any], replace: bool = False) -> dict[str, Any]:
        """Start a job and return its state. Raises NoSuchThing, Taken, or ToolError for a bad option or a path outside."""
        tool = self.jobs.tool(tool_name)
        declared = {option.name: option for option in tool.options}
        options = {name: self._confined(declared, name, value) for name, value in given.items()}
        for option in tool.options:
            if option.kind == "output" and options.get(option.name):
                options[option.name] = self._output(option, options, tool, replace)
        return self.state(self.jobs.start(tool_name, options).id)

    def state(self, job_id: str) -> dict[str, Any]:
        """Return how far a job is."""
        return self._state(self.jobs.get(job_id))

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Ask a job to stop and return its state; one that has ended stays as it is."""
        job = self.jobs.get(job_id)
        if not job.ended:
            job.cancel()
        return self._state(job)

    def result(self, job_id: str) -> dict[str, Any]:
        """Return what a finished job made. Raises NotReady for one that runs, or that has no result."""
        job = self.jobs.get(job_id)
        if job.result is None:
            raise NotReady(job.error or f"the job is {job.status}; ask for its result when it is done")
        outputs = [storable(str(path)) for path in job.result.outputs]
        return {"id": job.id, "tool": job.tool, "report": plain(job.result.report), "text": storable(job.result.text), "outputs": outputs}

    def _state(self, job: Job) -> dict[str, Any]:
        state = as_json(job, self.jobs)
        return {**state, "error": storable(self.sentence(job.error)) or None}

    @staticmethod
    def code(error: LycorisError) -> int:
        """Return the HTTP status that says what an error says."""
        if isinstance(error, QueueFull):
            return 429
        return 404 if isinstance(error, NoSuchThing) else 409 if isinstance(error, (Taken, NotReady)) else 422

    def sentence(self, text: str) -> str:
        """Return a sentence without the paths of our folders: files are named from them on, where they lie is nobody's business."""
        folders = {self.store.network_folder(), self.store.checkpoint_folder()}
        folders |= {file.path.parent for files in (self.store.networks(), self.store.checkpoints()) for file in files}
        for folder in sorted(map(str, folders), key=len, reverse=True):
            text = text.replace(folder + os.sep, "").replace(folder, Path(folder).name)
        return text

    def _confined(self, declared: Mapping[str, Option], name: str, value: Any) -> Any:
        option = declared.get(name)
        if option is None or option.type is not Path or value is None:
            return value
        value = typed(option, value)
        if option.kind == "output":
            return value
        known = self._known(option)
        return [known(str(item)) for item in value] if isinstance(value, list) else known(str(value))

    def _known(self, option: Option) -> Callable[[str], Path]:
        """Return what finds the files that an option may name; the folders are looked through once for all of them."""
        networks = {file.name: file.path for file in self.store.networks()}
        checkpoints = {file.name: file.path for file in self.store.checkpoints()}
        places = {"network": (networks, "network"), "networks": (networks, "network"), "checkpoint": (checkpoints, "checkpoint")}
        offered, what = places.get(option.kind, ({}, option.kind))
        first, second = self.store.network_folder(), self.store.checkpoint_folder()
        folders = [second, first] if what == "checkpoint" else [first, second]
        return lambda name: known_file(name, offered, folders, what)

    def _output(self, option: Option, options: Mapping[str, Any], tool: Tool, replace: bool) -> Path:
        name = str(options[option.name])
        network = option.makes in ("network", "networks")
        folder = self.store.network_folder() if network else self.store.checkpoint_folder()
        if option.makes == "file":
            if Path(name).suffix.lower() not in FILES:
                raise ToolError(f"{option.name} must end in {' or '.join(FILES)}")
            return new_file(folder, name, Path(name).suffix.lower(), replace)
        a_folder = option.makes == "checkpoint" and any(
            other.kind == "checkpoint" and isinstance(path := options.get(other.name), Path) and path.is_dir() for other in tool.options
        )
        path = new_file(folder, name, "" if a_folder else SUFFIX, replace)
        if option.makes == "networks" and not replace:
            free_for_several(path)
        return path


def as_json(job: Job, jobs: Jobs) -> dict[str, Any]:
    """Return a job's state as plain JSON values."""
    at = job.progress
    progress = None if at is None else {
        "step": at.step, "total": at.total, "unit": at.unit, "text": at.text, "rate": at.rate, "seconds_left": at.left,
    }  # fmt: skip
    return {
        "id": job.id, "tool": job.tool, "status": job.status, "waiting_for": jobs.before(job) if job.status == "waiting" else 0,
        "progress": plain(progress), "error": job.error or None, "notes": list(job.notes),
    }  # fmt: skip


def schema(tool: Tool) -> dict[str, Any]:
    """Return the JSON schema of a tool's options."""
    options = [option for option in tool.options if not (option.ignored or option.refused)]
    return {
        "type": "object", "title": tool.pretty, "additionalProperties": False,
        "required": [option.name for option in options if option.required],
        "properties": {option.name: _property(option) for option in options},
    }  # fmt: skip


def _property(option: Option) -> dict[str, Any]:
    one: dict[str, Any] = {"type": TYPES.get(option.type, "string")}
    if option.choices:
        one["enum"] = list(option.choices)
    where = {"output": " (a name in the folder of results)", "value": ""}
    several = option.nargs in ("+", "*") or isinstance(option.nargs, int)
    found: dict[str, Any] = {"type": "array", "items": one} if several else one
    found["description"] = option.help + where.get(option.kind, " (a name from the list, or a path in its folder)")
    if option.default not in (None, ()):
        found["default"] = option.default
    return found
