"""The running loader beside what the host does, on a real SD1.5 UNet and text encoder: waits, steps, images, memory.

Each figure is a ratio of two things measured in turns in one run; between the brackets lies the middle half of the single measurements.
``first_use``, ``new_file``, ``strength_only`` and ``off``: the time that a change adds to the next image, ours of the host's.
``steady``: a UNet step with a network, of one without. ``image``: a change and twenty steps, of twenty plain steps.
``least``: what a change and a step could take at the least, in seconds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from lib_lycoris.patching import Mode

from . import loader_floors, loader_gpu, loader_memory, loader_networks, loader_webui, scan
from .loader_models import make
from .loader_stages import QUICK, Plan, Stages
from .loader_timing import Clock, Result

SDXL = Plan(2, 3, {"functional": 5}, 2, 0, ways=("functional",))
SDXL_STEADY_LIMITS = {"steady_lora_functional": 1.05}
STAGES = ("changes", "steady", "floors", "schedule", "memory", "start", "webui", "gpu", "sdxl")


def start() -> Iterator[Result]:
    """Yield how long the import of the package and the scan of a library take."""
    for entry in scan.results():
        yield Result(entry["name"], entry["value"], entry["limit"])


class Run:
    """What a run was asked for, by stage."""

    def __init__(self, given: argparse.Namespace, folder: Path, plan: Plan) -> None:
        self.given, self.folder, self.plan = given, folder, plan
        self.kinds = tuple(given.kinds)
        self._stages: Stages | None = None

    @property
    def stages(self) -> Stages:
        """Make the model when something is measured on it."""
        if self._stages is None:
            half = self.given.device != "cpu"
            model = make(self.given.model, self.given.device, torch.float16 if half else torch.float32)
            self._stages = Stages(model, self.folder, self.kinds, self.plan)
        return self._stages

    def forget(self) -> None:
        """Give the model's memory back."""
        self._stages = None
        gc.collect()

    def default(self) -> list[str]:
        """Return the stages of a run that names none."""
        found = ["changes", "steady", "floors", "schedule", "memory", "start"]
        wanted = {"webui": self.given.webui, "gpu": self.given.device != "cpu", "sdxl": self.given.sdxl}
        return found + [name for name, asked in wanted.items() if asked]

    def stage(self, name: str) -> Iterator[Result]:
        """Yield a stage's results."""
        given = self.given
        work: dict[str, Callable[[], Iterator[Result]]] = {
            "changes": lambda: self.stages.changes(), "steady": lambda: self.stages.steady(), "schedule": lambda: self.stages.schedule(),
            "floors": lambda: loader_floors.results(self.stages),
            "memory": self.memory, "start": start, "gpu": lambda: loader_gpu.results(self.stages), "sdxl": self.sdxl,
            "webui": lambda: loader_webui.results(given.webui, given.webui_python, self.folder, self.kinds, self.plan.repeats),
        }  # fmt: skip
        yield from work[name]()

    def memory(self) -> Iterator[Result]:
        """Measure in another process, which needs the memory of this one's model."""
        self.forget()
        yield from loader_memory.results(self.kinds, self.folder, self.plan.row, self.given.device, self.given.model)

    def sdxl(self) -> Iterator[Result]:
        """Yield the changes and steps of an SDXL UNet in half precision, on the functional way."""
        self.forget()
        folder = self.folder / "sdxl"
        folder.mkdir(exist_ok=True)
        cpu = self.given.device == "cpu"
        model = make("sdxl", self.given.device, torch.bfloat16 if cpu else torch.float16)
        stages = Stages(model, folder, self.kinds, replace(SDXL, size=64 if cpu else 128))
        yield from _of_sdxl("sdxl", (*stages.changes(), *stages.steady()))
        if cpu:  # a step of the size that SDXL is used at takes so long there that one network must do
            yield from _of_sdxl("sdxl_1024_px", Stages(model, folder, self.kinds[:1], replace(SDXL, size=128)).steady())


def _of_sdxl(name: str, results: Iterable[Result]) -> Iterator[Result]:
    """Yield results with the name of their stage, and the limits that SDXL has."""
    for result in results:
        yield replace(result, name=f"{name}_{result.name}", limit=SDXL_STEADY_LIMITS.get(result.name, result.limit))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    known = [*loader_networks.KINDS, *loader_networks.MORE]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="NAME", help=f"measure these alone, of {', '.join(STAGES)}")
    parser.add_argument("--kinds", nargs="+", default=[*loader_networks.KINDS], choices=known, metavar="KIND", help=", ".join(known))
    parser.add_argument("--ways", nargs="+", default=["functional", "merged", "auto"], choices=get_args(Mode), help="to apply networks")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; on cuda in half precision, with absolute times")
    parser.add_argument("--sdxl", action="store_true", help="measure an SDXL UNet as well (20 GB of memory, half an hour on two cores)")
    parser.add_argument("--webui", type=Path, metavar="DIR", help="compare the host's method with this webui's own loader")
    parser.add_argument("--webui-python", metavar="PYTHON", help="the Python that this webui runs with (default: the one in its venv)")
    parser.add_argument("--quick", action="store_true", help="measure each thing once")
    parser.add_argument("--size", type=int, default=64, help="of the latents of a step; smaller is quicker and no longer the issue's")
    parser.add_argument("--processor-time", action="store_true", help="on a busy machine: one thread, and its time instead of the wall's")
    parser.add_argument("--json", type=Path, help="write the results to a file")
    parser.add_argument("--picture", type=Path, help="draw the results into a file")
    parser.add_argument("--folder", type=Path, help="keep the networks here, for the next run (default: a temporary folder)")
    parser.add_argument("--model", default="sd1", choices=("sd1", "tiny"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def write(given: argparse.Namespace, results: list[Result]) -> None:
    """Write what was asked for beside the lines."""
    if given.json:
        given.json.write_text(json.dumps({"results": [result.entry for result in results]}, indent=1) + "\n", "utf-8")
    if given.picture:
        from .loader_picture import draw

        draw(results, given.picture)


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements; return 1 if a limit is not kept."""
    given = parse(arguments)
    plan = replace(QUICK if given.quick else Plan(), size=given.size, ways=tuple(given.ways))
    if given.processor_time:
        Clock.count_processor_time()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="lycoris-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    run, results = Run(given, folder.resolve(), plan), []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads of {os.cpu_count()}, {given.device}", flush=True)
    try:
        for name in given.only or run.default():
            for result in run.stage(name):
                results.append(result)
                print(result.line, flush=True)
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    write(given, results)
    return 0 if all(result.within for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
