"""The extension in a real webui beside the loader that is built in there: what changes of networks add to images, memory, the start.

``bench trial --webui DIR`` makes a random checkpoint of SD 1.5's real sizes and networks for it; the same files are ``<lora:...>`` to the
webui's loader, in a process without the extension, and ``<lyco:...>`` to ours. Every side starts anew for each kind of network, and makes
images of 64x64 in one step through the API, with as many threads as the webui takes by itself and the allocator of its launcher. A change
adds the time of the image after it, less that of an image with other prompts and the same tag: what a network costs at every step is not in
it. Peaks are the process' resident memory above images without tags.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tests.webui.kinds import recognise
from tests.webui.server import CHECKOUT, WebUI

from . import loader_networks
from .loader_models import make
from .loader_sides import Ours
from .loader_stages import EVENTS
from .loader_timing import Result, of, ratio
from .loader_webui import FIGURES, Pictures, checkpoint, python_of, serving
from .memory import at_hand

MB = 1e6
LIMITS = {"auto": 0.1, "merged": 1 / 3}  # of what the built-in loader adds
MEMORY_LIMIT, NO_ROOM_LIMIT = 1.0, 100.0  # of the built-in loader's peak; MB
START_LIMIT = 0.3  # seconds
PHASES = (  # of the webui's timer: those in which an extension runs
    "load scripts", "reload script modules", "initialize extra networks", "scripts before_ui_callback", "create ui", "gradio launch",
    "add APIs", "app_started_callback",
)  # fmt: skip
WARMING = 4  # images after which the process' memory grows no more
Times = dict[str, list[float]]
Tag = Callable[[int, float], str]


@dataclass(frozen=True)
class Side:
    """One loader: the name of its tags, whether it is ours, and the settings that it has."""

    tag: str
    ours: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


BUILT_IN = Side("lora", ours=False)
SIDES = {"built_in": BUILT_IN, **{way: Side("lyco", settings={"lyco_mode": way}) for way in LIMITS}}
NO_ROOM = Side("lyco", settings={"lyco_merged_mib": 0})


@cache
def allocator() -> Mapping[str, str]:
    """Return the environment that webui.sh adds where the system has TCMalloc.

    Without it each image asks the system for its 3 GB anew, which takes as long as all else, and as it happens.
    """
    ldconfig = shutil.which("ldconfig", path=os.pathsep.join((os.environ.get("PATH", ""), "/sbin", "/usr/sbin")))
    listed = subprocess.run([ldconfig, "-p"], capture_output=True, text=True).stdout if ldconfig else ""
    found = re.search(r"=> (\S+/libtcmalloc(?:_minimal)?\.so\.\d)$", listed, re.MULTILINE)
    return {"LD_PRELOAD": found[1]} if found else {}


class LaunchedWebUI(WebUI):
    """A webui as its own launcher starts it."""

    def environment(self) -> dict[str, str]:
        """Return the environment, the allocator with it."""
        return {**super().environment(), **allocator()}


def changes(pictures: Pictures, tag: Tag, repeats: int) -> Times:
    """Return what each kind of change adds; tag: of the network with this number, of which there are one more than repeats."""
    last = tag(repeats, 0.8)
    found = {"first_use": [pictures.added(tag(0, 0.8))]}
    found["new_file"] = [pictures.added(tag(number, 0.8)) for number in range(1, repeats + 1)]
    found["strength_only"] = [pictures.added(tag(repeats, 0.7 - 0.1 * number)) for number in range(repeats)]
    found["off"] = [_off(pictures, last) for _ in range(repeats)]
    return found


def _off(pictures: Pictures, tag: str) -> float:
    """Return what it adds to take a network off, after a second image with it: the first takes memory that the image after it misses."""
    for _ in range(2):
        pictures.cost(tag)
    return pictures.added("")


@contextmanager
def peak(process: int) -> Iterator[SimpleNamespace]:
    """Give what holds, at the end, the ``bytes`` that another process had resident at the most meanwhile (Linux)."""
    Path(f"/proc/{process}/clear_refs").write_text("5")
    found = SimpleNamespace(bytes=0)
    yield found
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    found.bytes = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def started(records: Mapping[str, float]) -> float:
    """Return the seconds that a webui's start spent where extensions run, of what its timer recorded."""
    return sum(records.get(phase, 0.0) for phase in PHASES)


class Trial:
    """A webui, the files that it is given, and how often each thing is measured."""

    def __init__(
        self, folder: Path, python: str | None, work: Path, repeats: int, firsts: int, now: Callable[[], float] | None
    ) -> None:  # fmt: skip
        """Make the checkpoint, unless it is there; firsts: how many processes are asked for a first use; now: see Pictures."""
        self.folder, self.work, self.repeats, self.firsts, self.now = folder.resolve(), work, repeats, firsts, now
        self.python = python_of(self.folder, python)
        self.models = checkpoint(self.folder, self.python, work)
        self.base = Ours.names(make("sd1", "meta"))

    def webui(self, side: Side, *flags: str) -> WebUI:
        """Return a webui that nothing has run in."""
        return LaunchedWebUI(
            self.folder, Path(self.python), models=self.models, data=self.work / "webui-data", checkout=CHECKOUT if side.ours else None,
            options=side.settings, flags=flags, threads=None,
        )  # fmt: skip

    def at_hand(self, kind: str) -> None:
        """Have the system hold memory of the model's size, and the networks' files: both loaders take as much at a first use."""
        at_hand((self.models / "checkpoints" / "sd1-1.safetensors").stat().st_size)
        for file in self.work.glob(f"{kind}-*.safetensors"):
            file.read_bytes()

    @contextmanager
    def side(self, side: Side, kind: str) -> Iterator[tuple[Pictures, Tag, float]]:
        """Give the images of a process with networks of a kind, their tags, and the process' peak without them."""
        numbers = range(self.repeats + 1)
        files = {f"{kind}-{number}": loader_networks.write(kind, self.base, self.work, torch.float32, number) for number in numbers}
        webui = self.webui(side)
        with serving(webui, files):
            pictures = Pictures(webui, self.now)
            for _ in range(WARMING):
                pictures.cost("")
            with peak(pictures.process) as resting:
                plain = pictures.same("")
            yield pictures, lambda number, strength: f"<{side.tag}:{kind}-{number}:{strength:.1f}>", resting.bytes
            if pictures.same(f"<{side.tag}:{kind}-0:0.8>") == plain:
                raise RuntimeError(f"<{side.tag}:{kind}-0:0.8> changes nothing: there is nothing to be measured")

    def measured(self, side: Side, kind: str) -> tuple[Times, float]:
        """Return what changes add in one process, and by how many bytes its peak lies above that of images without tags."""
        with self.side(side, kind) as (pictures, tag, resting):
            self.at_hand(kind)
            with peak(pictures.process) as highest:
                found = changes(pictures, tag, self.repeats)
            return found, highest.bytes - resting

    def first_use(self, side: Side, kind: str) -> float:
        """Return what a first use adds, in a process of its own."""
        with self.side(side, kind) as (pictures, tag, _):
            self.at_hand(kind)
            return pictures.added(tag(0, 0.8))

    def without_room(self, kind: str) -> float:
        """Return by how many bytes the peak with one network is above that without, where no changed weights may be kept."""
        with self.side(NO_ROOM, kind) as (pictures, tag, resting):
            with peak(pictures.process) as highest:
                for strength in (0.8, 0.8, 0.7, 0.7):
                    pictures.cost(tag(0, strength))
            above: float = highest.bytes - resting
            return above

    def of_kind(self, kind: str) -> Iterator[Result]:
        """Yield the figures of a kind of network."""
        found, peaks = dict[str, Times](), dict[str, float]()
        for name, side in SIDES.items():
            found[name], peaks[name] = self.measured(side, kind)
            found[name]["first_use"] += [self.first_use(side, kind) for _ in range(self.firsts - 1)]
            for event in EVENTS:
                yield of(f"{event}_{kind}_{name}_seconds", found[name][event], unit="s")
            yield Result(f"memory_{kind}_{name}_mb", peaks[name] / MB, unit="MB")
        for way, limit in LIMITS.items():
            for event in EVENTS:
                ours, theirs = (found[name][event] for name in (way, "built_in"))
                if event == "first_use":  # others, and where a machine's new pages come from, only add to it
                    ours, theirs = [min(ours)], [min(theirs)]
                yield ratio(f"{event}_{kind}_{way}", ours, theirs, limit)
            yield Result(f"memory_{kind}_{way}", peaks[way] / peaks["built_in"], MEMORY_LIMIT)
        yield Result(f"memory_{kind}_no_room_mb", self.without_room(kind) / MB, NO_ROOM_LIMIT, unit="MB")

    def start(self, rounds: int) -> Iterator[Result]:
        """Yield what the extension adds to the start, of the shortest in turns: others only disturb. The first compiles and is left out."""
        times: dict[str, list[float]] = {"without": [], "with": []}
        for number in range(rounds + 1):
            for name, side in (("without", BUILT_IN), ("with", SIDES["auto"])):
                taken = self.start_of(side)
                if number:
                    times[name].append(taken)
        for name, values in times.items():
            yield of(f"start_{name}_seconds", values, unit="s")
        yield Result("start", min(times["with"]) - min(times["without"]), START_LIMIT, unit="s")

    def start_of(self, side: Side) -> float:
        """Return the seconds of one start; the checkpoint is not loaded beside it, which takes longer than all the rest."""
        webui = self.webui(side, "--skip-load-model-at-start")
        webui.kind = replace(webui.kind, loaded="")
        with serving(webui, {}):
            return started(webui.call("/internal/profile-startup")["records"])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--webui", type=Path, metavar="DIR", required=True, help="a folder of AUTOMATIC1111's webui, which stays as it is")
    parser.add_argument("--webui-python", metavar="PYTHON", help="the Python that this webui runs with (default: the one in its venv)")
    parser.add_argument("--kinds", nargs="*", default=[*FIGURES], choices=FIGURES, metavar="KIND", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--repeats", type=int, default=5, help="of each change but a first use: the collector's passes fall into some")
    parser.add_argument("--first-uses", type=int, default=3, help="processes that are asked for one, of which the shortest counts")
    parser.add_argument("--starts", type=int, default=12, help="with and without the extension; 0: the start is not measured")
    parser.add_argument("--processor-time", action="store_true", help="on a busy machine: the webui's processor time instead of the wall's")
    parser.add_argument("--json", type=Path, help="write the results to a file")
    parser.add_argument("--folder", type=Path, help="keep checkpoint and networks here, for the next run (default: a temporary folder)")
    given = parser.parse_args(arguments)
    try:
        name = recognise(given.webui).name
    except ValueError as error:
        parser.error(str(error))
    if name != "a1111":
        parser.error(f"{given.webui} is {name}: only AUTOMATIC1111's webui has the loader that the limits are about")
    return given


def results(given: argparse.Namespace, work: Path) -> Iterator[Result]:
    """Yield all that was asked for."""
    trial = Trial(
        given.webui, given.webui_python, work, given.repeats, given.first_uses, None if given.processor_time else time.perf_counter
    )
    if given.starts:
        yield from trial.start(given.starts)
    for kind in given.kinds:
        yield from trial.of_kind(kind)


def main(arguments: list[str] | None = None) -> int:
    """Run the trial; return 1 if a limit is not kept."""
    given = parse(arguments)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="lycoris-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    print(f"allocator: {allocator().get('LD_PRELOAD', 'the system has no TCMalloc')}", flush=True)
    try:
        for result in results(given, folder.resolve()):
            found.append(result)
            print(result.line, flush=True)
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    if given.json:
        given.json.write_text(
            json.dumps({"allocator": dict(allocator()), "results": [result.entry for result in found]}, indent=1) + "\n", "utf-8"
        )
    return 0 if all(result.within for result in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
