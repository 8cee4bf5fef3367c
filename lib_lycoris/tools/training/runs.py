"""Trainings as processes of their own, which outlive who started them: started, followed by a file of progress, stopped by a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...errors import ToolError
from ...plain_json import parse_json
from ..jobs.places import SUFFIX

MODULE = "lib_lycoris.training"
ROOT = Path(__file__).resolve().parents[3]  # the folder that holds the package, which may not be installed
FOLDER_ENDING, PROGRESS, STOP, LOG, PROCESS, STATE = ".training", "progress.jsonl", "stop", "log.txt", "process.json", "state.pt"
AGAIN = ("--resume", "--overwrite")
TAIL = 4000  # characters of a log


@dataclass
class RunFacts:
    """What is known of a run from the files in its folder."""

    folder: Path
    running: bool = False
    status: str = "new"  # new, caching, training, stopped, failed, done, ended
    step: int = 0
    steps: int = 0
    text: str = ""
    losses: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    norms: list[tuple[int, float]] = field(default_factory=list)
    rates: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    seconds: float = 0.0
    files: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    spectra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The network's name."""
        return name_of(self.folder)

    @property
    def network(self) -> Path:
        """The file that the run is to write, which may not be there yet."""
        return network_of(self.folder)


def name_of(folder: Path) -> str:
    """Return the name of the network that a run's folder is for."""
    return folder.name.removesuffix(FOLDER_ENDING)


def network_of(folder: Path) -> Path:
    """Return the file of the network that a run's folder is for."""
    return folder.with_name(f"{name_of(folder)}{SUFFIX}")


def environment() -> dict[str, str]:
    """Return the variables of a training's process: it finds this package wherever it lies."""
    before = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), before))), "PYTHONUNBUFFERED": "1"}


def run_to_end(words: Sequence[str]) -> int:
    """Train in a process of its own and return its exit code; Ctrl-C reaches it by itself, and it says where it stopped."""
    process = subprocess.Popen([sys.executable, "-m", MODULE, *words], env=environment())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def start(command: Sequence[str], words: Sequence[str], folder: Path) -> int:
    """Start a training that goes on when this process ends; return the process's number. Raises ToolError where one is running there."""
    if running(folder):
        raise ToolError(f"{name_of(folder)} is being trained already; cancel it first, or choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).unlink(missing_ok=True)
    apart: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        apart = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "DETACHED_PROCESS", 0)}
    with (folder / LOG).open("wb") as log:
        process = subprocess.Popen([*command, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), **apart)
    _CHILDREN[process.pid] = process
    kept = {"process": process.pid, "words": [word for word in words if word not in AGAIN]}
    (folder / PROCESS).write_text(json.dumps(kept), encoding="utf-8")
    return process.pid


_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}  # to be asked whether they have ended: a dead child that nobody asks still has a number


def words_of(folder: Path) -> list[str]:
    """Return the options that a run was started with, without those that say where to begin. Raises ToolError where none are kept."""
    try:
        return [str(word) for word in parse_json((folder / PROCESS).read_text("utf-8"))["words"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolError(f"{name_of(folder)} was not started here; go on with `train ... --resume`") from error


def running(folder: Path) -> bool:
    """Tell whether the process that was started for a run is still there."""
    try:
        number = int(parse_json((folder / PROCESS).read_text("utf-8"))["process"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if number in _CHILDREN:
        return _CHILDREN[number].poll() is None
    return _alive(number)


def _alive(number: int) -> bool:
    if os.name == "nt":
        listed = subprocess.run(["tasklist", "/FI", f"PID eq {number}", "/NH"], capture_output=True, text=True)
        return str(number) in listed.stdout
    try:
        os.kill(number, 0)
    except OSError:
        return False
    return True


def is_there(folder: Path) -> bool:
    """Tell whether there is a run to go on with, or what came of one."""
    return (folder / STATE).is_file() or network_of(folder).is_file()


def stop(folder: Path) -> None:
    """Ask a run to stop after its step; it keeps its state."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOP).touch()


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of runs beside the networks of a folder, the last that did something first."""
    found = [path for path in folder.glob(f"*{FOLDER_ENDING}") if path.is_dir()] if folder.is_dir() else []
    return sorted(found, key=lambda path: -path.stat().st_mtime)


def facts_of(folder: Path) -> RunFacts:
    """Return what is known of a run."""
    return RunReader(folder).look()


class RunReader:
    """Looks at a run again and again: each time only what was told since is read, for a run tells of every step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begin(None)

    def _begin(self, file: int | None) -> None:
        self._file, self._read, self._told = file, 0, RunFacts(self.folder)

    def look(self) -> RunFacts:
        """Return what is known now."""
        alive = running(self.folder)  # asked first: what a process tells before it ends is read
        for line in self._new_lines():
            _note(self._told, line)
        facts = replace(self._told, running=alive)
        if facts.status in ("new", "caching", "training") and not alive:
            log = tail(self.folder)
            facts.status, facts.text = ("failed", log) if log and facts.status == "new" else ("ended", facts.text or log)
        return facts

    def _new_lines(self) -> list[dict[str, Any]]:
        """Return the whole lines behind those that were read; all of them where the file is another one, as after --resume."""
        try:
            with (self.folder / PROGRESS).open("rb") as file:
                now = os.fstat(file.fileno())
                if now.st_ino != self._file or now.st_size < self._read:
                    self._begin(now.st_ino)
                file.seek(self._read)
                text = file.read()
        except OSError:
            return []
        text = text[: text.rfind(b"\n") + 1]  # the rest is being written, or was when the process died
        self._read += len(text)
        return _entries(text.decode("utf-8", errors="replace"))


def tail(folder: Path) -> str:
    """Return the end of what a run's process printed."""
    try:
        return (folder / LOG).read_text("utf-8", errors="replace")[-TAIL:].strip()
    except OSError:
        return ""


def _entries(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        try:
            entry = parse_json(line)
        except ValueError:
            continue  # half of a line, which a process that died has left before the next one's
        if isinstance(entry, dict):
            found.append(entry)
    return found


def _note(facts: RunFacts, line: Mapping[str, Any]) -> None:
    """Take in one line of progress."""
    kind, step = line.get("event"), int(line.get("step", facts.step))
    facts.step = max(facts.step, step) if kind != "start" else step
    facts.steps = int(line.get("steps", facts.steps))
    if kind == "start":
        facts.status, facts.text = "caching", ""
    elif kind == "caching":
        facts.status, facts.text = "caching", f"latents: {line.get('done')} of {line.get('total')}"
    elif kind == "step":
        facts.status, facts.text, facts.seconds = "training", "", float(line.get("seconds", 0.0))
        facts.losses.append((step, float(line["recent"])))
        facts.norms.append((step, float(line["norm"])))
        for name, rate in line.get("rates", {}).items():
            facts.rates.setdefault(name, []).append((step, float(rate)))
    elif kind == "validation":
        facts.validation.append((step, float(line["loss"])))
    elif kind == "saved":
        facts.files = [name for name in (*facts.files, str(line["file"])) if name not in line.get("removed", ())]
    elif kind == "hint":
        facts.hints.append(str(line["text"]))
    elif kind == "spectra":
        facts.spectra = line
    elif kind in ("stopped", "failed", "done"):
        facts.status, facts.text = str(kind), str(line.get("text", ""))
