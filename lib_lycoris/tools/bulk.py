"""One tool over many files: each on its own, past those that fail, with one report; what a run before has done is not done again.

The report lies in the folder of the results. It remembers what every result was made of, and a result stands as long as its input, the
options and its own bytes are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..atomic import write_text
from ..errors import ToolError, readable, reason
from ..networks.hashes import sha256
from ..networks.reading.folder import files_below
from ..plain_json import json_text, read_json
from ..records import dataclass
from ..wording import counted
from .arguments import networks_at
from .declaration import Tool

REPORT = "lycoris-bulk.json"  # in the folder of the results
LARGEST_REPORT = 256 << 20  # bytes: of some hundred thousand files
INPUT, OUTPUT = "model", "save_to"


@dataclass(frozen=True)
class BulkJob:
    """One file, with the options of its run."""

    source: Path
    target: Path
    options: Mapping[str, Any]


def jobs_of(tool: Tool, sources: Sequence[Path], folder: Path, given: Mapping[str, Any]) -> list[BulkJob]:
    """Return a job for each file, those of folders and patterns too; results have their names.

    Raises:
        ToolError: the tool does not make one file of one, two files have one name, or there is no folder for the results.
    """
    made = [option.makes for option in tool.options if option.name == OUTPUT]
    if made != ["network"] or INPUT not in {option.name for option in tool.options}:
        raise ToolError(f"{tool.verb or tool.name} does not make one network of one; --each is for tools with --model and --save_to")
    if taken := [name for name in (INPUT, OUTPUT) if given.get(name) is not None]:
        raise ToolError(f"--each and --save_into stand for --model and --save_to; leave out --{taken[0]}")
    if not folder.is_dir():
        raise ToolError(f"{folder} is not there; make the folder first, the results are to be written into it")
    found: dict[str, BulkJob] = {}
    for source in (file for one in sources for file in networks_at(one)):
        target = folder / f"{source.stem if source.is_file() else source.name}.safetensors"
        if target.name in found:
            raise ToolError(f"{source} and {found[target.name].source} would both become {target.name}; give them apart")
        if target.exists() and target.samefile(source):
            raise ToolError(f"{source} would be written over; give another folder with --save_into")
        found[target.name] = BulkJob(source, target, {**given, INPUT: source, OUTPUT: target})
    return list(found.values())


def left_below(sources: Sequence[Path]) -> list[str]:
    """Say which folders have files in subfolders, which are not done: results are written side by side."""
    found = []
    for folder in sources:
        if folder.is_dir() and networks_at(folder) != [folder]:
            count = sum(file.parent != folder for file in files_below(folder))
            found += [f"{folder}: {counted(count, 'file')} in its subfolders left out; give these folders too"] if count else []
    return found


def named(job: BulkJob, sentence: str) -> str:
    """Return what is said of a file with its name before it, where the sentence does not begin with that."""
    name = readable(job.source.name)
    return sentence if sentence.startswith(name) else f"{name}: {sentence}"


class Done:
    """What the runs before have made of which files."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / REPORT
        self._rows: dict[str, Any] = {}
        if self._path.exists():
            try:
                self._rows = dict(read_json(self._path, LARGEST_REPORT)["files"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ToolError(f"{self._path} is damaged ({reason(error)}); delete it, all files are then done anew") from error

    def is_done(self, tool: Tool, job: BulkJob) -> bool:
        """Tell whether a result is there, made of this very file with these options, and as it was written."""
        row = self._rows.get(job.target.name)
        if not isinstance(row, dict) or row.get("made_of") != _made_of(tool, job) or not job.target.is_file():
            return False
        return bool(row.get("sha256") == sha256(job.target))

    def remember(self, tool: Tool, job: BulkJob, report: Mapping[str, Any]) -> None:
        """Keep what became of a file; written at once, so that a run that is killed goes on where it was."""
        made = {"made_of": _made_of(tool, job), "sha256": sha256(job.target)} if "failure" not in report else {}
        self._rows[job.target.name] = {**made, "report": dict(report)}
        write_text(self._path, json_text({"version": 1, "files": self._rows}, indent=1) + "\n")


def _made_of(tool: Tool, job: BulkJob) -> dict[str, Any]:
    files = [path for path in sorted(job.source.rglob("*")) if path.is_file()] if job.source.is_dir() else [job.source]
    options = {name: _plain(value) for name, value in sorted(job.options.items()) if name not in (INPUT, OUTPUT)}
    return {"tool": tool.name, "version": __version__, "options": options, "input": [[path.name, sha256(path)] for path in files]}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return [str(value), value.stat().st_size if value.is_file() else None]
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def summary(reports: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Return the report on all files."""
    counts = {kind: sum(report["result"] == kind for report in reports) for kind in ("done", "skipped", "failed")}
    said = [f"{counts['done']} done", f"{counts['skipped']} there already and equal", f"{counts['failed']} failed"]
    return {
        "output": str(folder), "bytes": sum(report.get("bytes", 0) or 0 for report in reports),
        "seconds": round(sum(report.get("seconds", 0) or 0 for report in reports), 3),
        **counts, "ok": not counts["failed"], "files": list(reports), "text": f"{folder}: {', '.join(said)}",
    }  # fmt: skip
