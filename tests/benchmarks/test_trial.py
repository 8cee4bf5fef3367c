"""The trial's parts without a webui: what a change is said to add, peaks of another process, the start's phases, the limits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks import trial
from tests.benchmarks.loader_webui import Pictures, processor_time
from tests.webui.server import WebUI

COSTS = {"first_use": 6.0, "new_file": 3.0, "strength_only": 2.0, "off": 0.5}


class Loader:
    """Stands in for a webui: a step of 1 s, 0.25 s more with a tag, and what each kind of change costs."""

    process = SimpleNamespace(pid=1)

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.clock, self.before, self.seen = factor, 0.0, ("", ""), set[str]()
        self.prompts: list[tuple[str, str]] = []

    def txt2img(self, prompt: str, negative_prompt: str = "", steps: int = 4) -> Any:
        name, _, strength = prompt.partition("<")[2].rpartition(":")
        change = self.factor * COSTS[self.kind(name)] if (name, strength) != self.before else 0.0
        self.clock += steps * (1.0 + 0.25 * bool(name)) + change
        self.before = (name, strength)
        self.prompts.append((prompt.partition("<")[0], negative_prompt))
        return [SimpleNamespace(tobytes=lambda: name.encode())], {}

    def now(self) -> float:
        return self.clock

    def kind(self, name: str) -> str:
        if not self.seen:
            self.seen.add(name)
            return "first_use"
        return "off" if not name else "strength_only" if name == self.before[0] else "new_file"


def test_each_change_adds_what_it_costs_and_a_step_s_cost_is_not_in_it() -> None:
    loader = Loader()
    pictures = Pictures(loader, loader.now)  # type: ignore[arg-type]
    found = trial.changes(pictures, lambda number, strength: f"<lora:{number}:{strength}>", 2)
    assert {event: (len(times), {round(time, 6) for time in times}) for event, times in found.items()} == {
        event: (1 if event == "first_use" else 2, {cost}) for event, cost in COSTS.items()
    }
    for number, place in enumerate(zip(*loader.prompts, strict=True)):
        assert len(set(place)) == len(place), f"the webui keeps what it made of prompt {number} when it comes again"


def test_the_processor_time_and_the_peak_are_another_process_s() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\nmemory = bytearray(50_000_000)\ndel memory\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        with trial.peak(process.pid) as first:
            process.stdout.readline()
        with trial.peak(process.pid) as second:
            pass
        taken = processor_time(process.pid)
        process.stdin.close()
    assert 0.3 <= taken < 2.0
    assert 45e6 < first.bytes - second.bytes < 60e6, "a peak of before must not count"


def test_the_start_is_what_the_webui_s_timer_says_of_the_phases_with_extensions() -> None:
    records = {"import torch": 9.0, "load scripts": 1.5, "load scripts/ours.py": 0.2, "create ui": 1.0, "app_started_callback": 0.125}
    assert trial.started(records) == 2.625, "phases alone, not what they are made of"


def test_a_webui_keeps_what_it_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its start would be told to take seconds longer with the extension, which are the compiler's."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sd_hijack.py").touch()
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    webui = WebUI(tmp_path, Path(sys.executable), models=tmp_path, data=tmp_path / "data", checkout=None)
    assert "PYTHONDONTWRITEBYTECODE" not in webui.environment() and webui.environment()["PYTHONPYCACHEPREFIX"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("\tlibtcmalloc_minimal.so.4 (libc6) => /lib/64/libtcmalloc_minimal.so.4", "/lib/64/libtcmalloc_minimal.so.4"),
        ("\tlibtcmalloc.so.4 (libc6,x86-64) => /usr/lib/libtcmalloc.so.4", "/usr/lib/libtcmalloc.so.4"),
        ("\tlibtcmalloc_minimal_debug.so.4 (libc6,x86-64) => /lib/libtcmalloc_minimal_debug.so.4", None),
    ],
)  # fmt: skip
def test_the_allocator_is_that_of_the_webui_s_launcher(
    line: str, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    said = SimpleNamespace(stdout=f"2 libs found in cache\n{line}\n\tlibc.so.6 (libc6) => /lib/libc.so.6\n")
    monkeypatch.setattr(shutil, "which", lambda name, path: "/sbin/ldconfig")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    allocator = trial.allocator.__wrapped__
    assert allocator() == ({"LD_PRELOAD": found} if found else {})
    monkeypatch.setattr(trial, "allocator", allocator)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sd_hijack.py").touch()
    webui = trial.LaunchedWebUI(tmp_path, Path(sys.executable), models=tmp_path, data=tmp_path / "data", checkout=None)
    assert webui.environment().get("LD_PRELOAD") == (found or os.environ.get("LD_PRELOAD"))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Arguments of a trial in which the built-in loader's costs are told, ours are 0.05 of them, and peaks are by side."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sd_hijack.py").touch()
    peaks = {"lora": 5e9, "auto": 3e8, "merged": 4e9, "no room": 9e7}
    running: list[Any] = []

    def webui(self: trial.Trial, side: trial.Side, *flags: str) -> Any:
        name = side.settings.get("lyco_mode", "no room") if side.ours else "lora"
        return SimpleNamespace(loader=Loader(0.05 if side.ours else 1.0), above=peaks[name])

    @contextmanager
    def serving(webui: Any, networks: Any) -> Iterator[None]:
        assert sorted(networks) == ["lora-0", "lora-1", "lora-2", "lora-3"]
        running[:] = [webui]
        yield

    @contextmanager
    def peak(process: int) -> Iterator[SimpleNamespace]:
        found = SimpleNamespace(bytes=0)
        yield found
        found.bytes = 1e9 + running[0].above * bool(running[0].loader.seen)

    for name, stand_in in {
        "serving": serving, "peak": peak, "make": lambda *model: None,
        "Pictures": lambda webui, _: Pictures(webui.loader, webui.loader.now),
        "checkpoint": lambda folder, python, work: work,
    }.items():  # fmt: skip
        monkeypatch.setattr(trial, name, stand_in)
    monkeypatch.setattr("tests.benchmarks.loader_sides.Ours.names", lambda model: None)
    monkeypatch.setattr("tests.benchmarks.loader_networks.write", lambda *network: tmp_path)
    monkeypatch.setattr(trial.Trial, "webui", webui)
    monkeypatch.setattr(trial.Trial, "at_hand", lambda self, kind: None)
    monkeypatch.setattr(trial.Trial, "start_of", lambda self, side: 2.7 if side.ours else 2.5)
    return ["--webui", str(tmp_path), "--folder", str(tmp_path / "work"), "--kinds", "lora", "--starts", "1", "--repeats", "3"]


def test_a_trial_holds_every_figure_to_its_limit(
    given: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trial.main(given) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    limits = {name: line.split("<= ")[1].split(":")[0] for name, line in lines.items() if "<=" in line}
    expected = {f"{event}_lora_{way}": limit for event in COSTS for way, limit in (("auto", "0.1"), ("merged", "0.333"))}
    assert limits == {**expected, "memory_lora_auto": "1", "memory_lora_merged": "1", "memory_lora_no_room_mb": "100", "start": "0.3"}
    assert float(lines["new_file_lora_auto"].split()[1]) == 0.05 and float(lines["memory_lora_no_room_mb"].split()[1]) == 90
    monkeypatch.setattr(trial.Trial, "start_of", lambda self, side: 2.9 if side.ours else 2.5)
    assert trial.main(given) == 1


def test_of_first_uses_the_shortest_counts(given: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What disturbs one adds to it; each is in a process of its own, of either side."""
    others = {True: iter((0.12, 9.0, 9.0, 9.0)), False: iter((9.0, 9.0))}
    monkeypatch.setattr(trial.Trial, "first_use", lambda self, side, kind: next(others[side.ours]))
    assert trial.main(given) == 0
    lines = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert (lines["first_use_lora_auto"], lines["first_use_lora_merged"]) == ("0.020", "0.050")  # of the built-in loader's 6 s


def test_a_network_that_changes_nothing_and_a_webui_without_that_loader_end_the_trial(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(Pictures, "same", lambda self, tag: b"")
    with pytest.raises(RuntimeError, match="changes nothing"):
        trial.main(given)
    (tmp_path / "ldm_patched").mkdir()
    with pytest.raises(SystemExit):
        trial.main(given)
    assert "reforge: only AUTOMATIC1111's" in capsys.readouterr().err
