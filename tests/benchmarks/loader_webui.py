"""The host's method beside the loader of a real webui: the ratios between its figures must be those that the webui shows.

The webui makes images of 64x64 in one step from a checkpoint of real size, without our extension. What a change adds is the time of the
image after it, less that of an image with other prompts and the same tag: the text encoder runs for both, for both prompts. On both sides
there is one thread, and its processor time is counted: on a busy machine the wall's would say more of the other programs.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

from tests.webui.server import WebUI

from .loader_models import make
from .loader_sides import Hosts
from .loader_stages import Plan, Stages
from .loader_timing import Clock, Result, added

FIGURES = {"lora": 1.1, "locon": 3.7, "loha": 2.4, "lokr": 2.5}  # seconds that a strength change adds, by the issue; a first use: 12
FIRST_USE = 12.0
DEVIATION_LIMIT = 0.2
AFTER = 3  # images after a change, which it is held against
HERE = Path(__file__).resolve().parent


def results(folder: Path, python: str | None, work: Path, kinds: Sequence[str], repeats: int) -> Iterator[Result]:
    """Yield seconds of both, and by how much a ratio between two of them differs."""
    folder, python = folder.resolve(), python_of(folder, python)
    kinds = [kind for kind in kinds if kind in FIGURES]
    method: dict[str, float] = {}
    real: dict[str, float] = {}
    for name, value in measured_method(work, kinds, repeats):
        method[name] = value
        yield Result(f"host_{name}_method_seconds", value, unit="s")
    gc.collect()  # the model goes before the webui's comes
    for name, value in measured_webui(folder, python, work, kinds, repeats):
        real[name] = value
        yield Result(f"host_{name}_webui_seconds", value, unit="s")
    figures = {**{f"strength_{kind}": FIGURES[kind] for kind in kinds}, "first_use": FIRST_USE}
    unit = f"strength_{kinds[0]}"
    for name in (name for name in figures if name != unit):
        mine, webui = method[name] / method[unit], real[name] / real[unit]
        yield Result(f"host_{name}_to_{unit}_method", mine)
        yield Result(f"host_{name}_to_{unit}_webui", webui)
        yield Result(f"host_{name}_to_{unit}_issue", figures[name] / figures[unit])
        yield Result(f"host_{name}_deviation", max(mine / webui, webui / mine) - 1, DEVIATION_LIMIT)


def measured_method(work: Path, kinds: Sequence[str], repeats: int) -> Iterator[tuple[str, float]]:
    """Yield what the method adds: at the first use of the process, and at changes of a strength."""
    threads, usual = torch.get_num_threads(), Clock.now
    Clock.count_processor_time()
    try:
        model = make("sd1")
        stages, side = Stages(model, work, tuple(kinds), Plan()), Hosts(model, copied=False)
        side.model.probe()
        yield "first_use", added(lambda: side.use(stages.file(kinds[0]), 0.8), side.model.probe)
        for kind in kinds:
            side.use(stages.file(kind), 0.8)
            side.model.probe()
            changes = [lambda s=strength: side.use(stages.file(kind), s) for strength in _strengths(repeats)]  # type: ignore[misc] # noqa: B023
            yield f"strength_{kind}", median(added(change, side.model.probe) for change in changes)
    finally:
        torch.set_num_threads(threads)
        Clock.now = usual


def _strengths(repeats: int) -> list[float]:
    return [0.3 + 0.1 * number for number in range(max(3, repeats))]


def measured_webui(folder: Path, python: str, work: Path, kinds: Sequence[str], repeats: int) -> Iterator[tuple[str, float]]:
    """Yield the same of the webui."""
    webui = WebUI(folder, Path(python), models=checkpoint(folder, python, work), data=work / "webui-data", checkout=None)
    with serving(webui, {kind: work / f"{kind}-0.safetensors" for kind in kinds}):
        yield from _measure(Pictures(webui), kinds, repeats)


def python_of(folder: Path, python: str | None) -> str:
    """Return the Python that a webui runs with: the one that was named, or that in its venv."""
    return python or str(folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def checkpoint(folder: Path, python: str, work: Path) -> Path:
    """Return the folder of a random checkpoint of real size, which is made unless it is there."""
    models = work / "webui-models"
    if not (models / "checkpoints" / "sd1-1.safetensors").exists():
        command = [python, str(HERE / "loader_webui_model.py"), str(folder), str(models)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=work)
        if done.returncode:
            raise RuntimeError(f"the checkpoint could not be made:\n{done.stderr[-2000:]}")
    return models


@contextmanager
def serving(webui: WebUI, networks: Mapping[str, Path]) -> Iterator[None]:
    """Run a webui with these networks, by name; what it wrote goes with it."""
    for name, path in networks.items():
        (place := webui.lora_dir / f"{name}.safetensors").unlink(missing_ok=True)  # of a run that was stopped
        os.link(path, place)
    try:
        webui.start(600)
        yield
    finally:
        webui.stop()
        shutil.rmtree(webui.data)


class Pictures:
    """Images of a webui, and what they cost."""

    def __init__(self, webui: WebUI, now: Callable[[], float] | None = None) -> None:
        """Take a running webui; now: another clock than that of its processor time."""
        assert webui.process is not None
        self.webui, self.number, self.process = webui, 0, webui.process.pid
        self.now = now or (lambda: processor_time(self.process))

    def cost(self, tag: str) -> float:
        """Return the time of an image with prompts that were not there before.

        Neither of them: the webui keeps what the text encoder made of the negative one too, but for a change of tags.
        """
        self.number += 1
        before = self.now()
        self.webui.txt2img(f"image {self.number} {tag}", negative_prompt=f"none {self.number}", steps=1)
        return self.now() - before

    def added(self, tag: str) -> float:
        """Return what the change to a tag adds to the images after it; their median leaves out one that was disturbed."""
        first = self.cost(tag)
        return first - median(self.cost(tag) for _ in range(AFTER))

    def same(self, tag: str) -> bytes:
        """Return the image of prompts that are the same each time."""
        return self.webui.txt2img(f"image {tag}", steps=1)[0][0].tobytes()


def processor_time(process: int) -> float:
    """Return the processor time of another process in seconds (Linux; its number of that clock: clock_getcpuclockid(3))."""
    return time.clock_gettime((~process << 3) | 2)


def _measure(pictures: Pictures, kinds: Sequence[str], repeats: int) -> Iterator[tuple[str, float]]:
    tag: Callable[[str, float], str] = lambda kind, strength: f"<lora:{kind}:{strength:.1f}>"  # noqa: E731
    for _ in range(2):
        pictures.cost("")
    yield "first_use", pictures.added(tag(kinds[0], 0.8))
    for kind in kinds:
        pictures.cost(tag(kind, 0.8))
        yield f"strength_{kind}", median(pictures.added(tag(kind, strength)) for strength in _strengths(repeats))
