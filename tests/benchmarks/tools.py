"""Time and memory of the tools on full-size shapes, beside the ways of other programs and the least that the work could take, in one run.

``python3 -m tests.benchmarks.tools [--json FILE] [--only NAME ...] [--sdxl] [--device DEVICE] [--folder DIR]``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from lib_lycoris.tools.extract import extract
from lib_lycoris.tools.merge import checkpoint as merge
from lib_lycoris.tools.reshape import resize

from . import loader_gpu, tools_floors, tools_merge, tools_plans, tools_verbs
from .loader_timing import seconds
from .memory import peak_of
from .tools_models import make_models
from .tools_networks import RANKS, network
from .tools_peer import optimal_ratio, peer_cost, peer_modules

LIMITS = {
    "extract_time_ratio": 40.0, "extract_residual_ratio": 1.002, "extract_residual_ratio_noise": 1.002, "resize_time_ratio": 200.0,
    "merge_time_ratio": 1.5, "extract_memory_mb": 800.0, "merge_memory_mb": 400.0, "resize_memory_mb": 400.0,
    "extract_memory_sdxl_mb": 1000.0, "merge_memory_sdxl_mb": 1000.0, "resize_memory_sdxl_mb": 1000.0, "extract_sdxl_seconds": 45.0,
    "extract_accelerator_memory_ratio": 1.25, "merge_accelerator_memory_ratio": 1.25,
    "merge_process_ratio": 1.75, "merge_process_no_hash_ratio": 2.0, "verify_process_ratio": 1.5, "undo_process_ratio": 3.0,
    **tools_verbs.LIMITS, **tools_plans.LIMITS,
}  # fmt: skip
STAGES = ("residual", "extract", "resize", "merge", "processes", "memory", "verbs", "plans")
AT_LEAST = ("extract_time_ratio", "resize_time_ratio")
EXTRACT = {"dim": 32, "conv_dim": 16}
MB = 1e6


class Bench:
    """The measurements; each method yields (name, value)."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.folder, self.device = folder, device
        self._costs: dict[bool, Callable[[int, int], float]] = {}

    def cost(self, full: bool) -> Callable[[int, int], float]:
        """Return the peer's cost, measured once."""
        if full not in self._costs:
            self._costs[full] = peer_cost(full)
        return self._costs[full]

    def extract_options(self, family: str) -> dict[str, Any]:
        """Return the options of the extraction that is measured."""
        base, tuned = make_models(family, self.folder)
        out = str(self.folder / f"{family}-locon.safetensors")
        return {"model_org": str(base), "model_tuned": str(tuned), "save_to": out, "device": self.device, **EXTRACT}

    def network(self, family: str) -> str:
        """Return a LoCon of the family, extracted if it is not there."""
        path = self.folder / f"{family}-locon.safetensors"
        if not path.exists():
            extract.run(**self.extract_options(family))
        return str(path)

    def peer_seconds(self, full: bool) -> float:
        """Return how long the peer's decompositions of an SD1.5 take."""
        cost = self.cost(full)
        return sum(cost(*shape) * count for shape, count in peer_modules("sd1").items())

    def residual(self) -> Iterable[tuple[str, float]]:
        """How near to the best approximation ours is."""
        yield "extract_residual_ratio", optimal_ratio(True)
        yield "extract_residual_ratio_noise", optimal_ratio(False)

    def extract(self) -> Iterable[tuple[str, float]]:
        """How long an extraction takes beside the peer's."""
        options = self.extract_options("sd1")
        ours = min(seconds(lambda: extract.run(**options)) for _ in range(2))
        yield "extract_seconds", ours
        yield "extract_time_ratio", self.peer_seconds(True) / ours
        yield "extract_time_ratio_thin", self.peer_seconds(False) / ours
        models = make_models("sd1", self.folder)
        yield "extract_floor_ratio", ours / tools_floors.least_extraction(*models, EXTRACT["dim"], EXTRACT["conv_dim"])

    def resize(self) -> Iterable[tuple[str, float]]:
        """How long a resize of a LoCon takes beside the peer's dense matrices."""
        options = {
            "model": self.network("sd1"),
            "save_to": str(self.folder / "resized.safetensors"),
            "dynamic_method": "sv_fro",
            "dynamic_param": 0.9,
        }
        ours = min(seconds(lambda: resize.run(**options)) for _ in range(3))
        yield "resize_seconds", ours
        yield "resize_time_ratio", self.peer_seconds(True) / ours
        yield "resize_floor_ratio", ours / tools_verbs.seconds(tools_verbs.decompositions(Path(options["model"]), Path(options["save_to"])))

    def merge_options(self, family: str) -> dict[str, Any]:
        """Return the options of the merge that is measured."""
        base, _ = make_models(family, self.folder)
        target = str(self.folder / "merged.safetensors")
        network = {"models": [self.network(family)], "ratios": [0.8]}
        return {"sd_model": str(base), **network, "save_to": target, "no_hash": True, "device": self.device}

    def merge(self) -> Iterable[tuple[str, float]]:
        """How long a merge takes beside a copy of the checkpoint."""
        options = self.merge_options("sd1")
        plain, ours = [], []
        for _ in range(2):
            plain.append(tools_merge.plain_copy(Path(options["sd_model"]), self.folder / "copy.safetensors"))
            ours.append(seconds(lambda: merge.run(**options)))
        yield "merge_seconds", min(ours)
        yield "merge_time_ratio", min(ours) / min(plain)

    def processes(self) -> Iterable[tuple[str, float]]:
        """How long whole processes of a merge, a check and an undo take."""
        base, _ = make_models("sd1", self.folder)
        yield from tools_merge.whole(self.folder, base, Path(self.network("sd1")))

    def memory(self, family: str = "sd1") -> Iterable[tuple[str, float]]:
        """How much memory each of them takes."""
        tail = "" if family == "sd1" else f"_{family}"
        yield f"extract_memory{tail}_mb", peak_of("lib_lycoris.tools.extract.extract", self.extract_options(family)) / MB
        yield f"merge_memory{tail}_mb", peak_of("lib_lycoris.tools.merge.checkpoint", self.merge_options(family)) / MB
        resized = {"model": self.network(family), "save_to": str(self.folder / "resized.safetensors"), "new_rank": 8}
        yield f"resize_memory{tail}_mb", peak_of("lib_lycoris.tools.reshape.resize", resized) / MB

    def sdxl(self) -> Iterable[tuple[str, float]]:
        """How long an extraction takes on the shapes of SDXL, and how much memory each of them."""
        options = self.extract_options("sdxl")
        yield "extract_sdxl_seconds", min(seconds(lambda: extract.run(**options)) for _ in range(2))
        yield from self.memory("sdxl")

    def accelerator(self) -> Iterable[tuple[str, float]]:
        """How much of an accelerator's memory they take, of what their plans say."""
        for name, tool, options in (("extract", extract, self.extract_options("sd1")), ("merge", merge, self.merge_options("sd1"))):
            planned = tool.plan(**options).memory_bytes
            assert planned, "there is nothing to compare with"
            yield f"{name}_accelerator_memory_ratio", loader_gpu.peak(lambda: tool.run(**options)) * MB / planned  # noqa: B023

    def verbs(self) -> Iterable[tuple[str, float]]:
        """How long the verbs on network files take beside the least that their work could."""
        base, _ = make_models("sd1", self.folder)
        for verb in (tools_verbs.loha_to_lora, tools_verbs.slimmed, tools_verbs.found, tools_verbs.edited):
            yield from verb(self.folder)
        yield from tools_verbs.asked(self.folder, base)

    def plans(self) -> Iterable[tuple[str, float]]:
        """How true the plans are."""
        networks = {kind: network(kind, self.folder) for kind in RANKS}
        yield from tools_plans.results(tools_plans.cases(self.folder, *make_models("sd1", self.folder), networks))


def within(name: str, value: float) -> bool:
    """Tell whether a value keeps to its limit; values without one are told for information."""
    limit = LIMITS.get(name)
    return limit is None or (value >= limit if name in AT_LEAST else value <= limit)


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements; return 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results to a file")
    parser.add_argument("--only", nargs="+", choices=(*STAGES, "sdxl", "accelerator"), help="measure these alone")
    parser.add_argument("--sdxl", action="store_true", help="measure on the shapes of SDXL too (20 GB of disk)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; on cuda its memory too")
    parser.add_argument("--folder", type=Path, help="keep the models here, for the next run (default: a temporary folder)")
    given = parser.parse_args(arguments)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="lycoris-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    bench, results = Bench(folder, given.device), []
    more = {"sdxl": given.sdxl, "accelerator": given.device != "cpu"}
    names = given.only or [*STAGES, *(name for name, asked in more.items() if asked)]
    try:
        stages = [getattr(bench, name)() for name in names]
        for stage in stages:
            for name, value in stage:
                results.append({"name": name, "value": value, "limit": LIMITS.get(name), "within": within(name, value)})
                sign = ">=" if name in AT_LEAST else "<="
                print(
                    f"{name:32} {value:12.4f}" + (f"   {sign} {LIMITS[name]:g}: {within(name, value)}" if name in LIMITS else ""),
                    flush=True,
                )
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    if given.json:
        given.json.write_text(json.dumps({"results": results}, indent=1) + "\n", "utf-8")
    return 0 if all(result["within"] for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
