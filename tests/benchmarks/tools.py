"""Time and memory of the tools on full-size shapes, beside the ways of other programs, in one run.

``python3 -m tests.benchmarks.tools [--json FILE] [--only NAME ...] [--sdxl] [--folder DIR]``. Models are made at run time: weights of the
full size whose difference is a part of rank 64 that decays, plus white noise, in fp16.

The peer's way (sd-scripts): a full SVD with full matrices of every module. Measuring it for all modules takes a quarter of an hour; it is
measured on SAMPLE, and a m² n + b m n², fitted to that, stands for the shapes of which there are more.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from math import prod, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_lycoris.models import reference
from lib_lycoris.tools.extract import extract
from lib_lycoris.tools.files.networks.growing import GrowingFile
from lib_lycoris.tools.linalg.low_rank import randomized_svd
from lib_lycoris.tools.merge import checkpoint as merge
from lib_lycoris.tools.reshape import resize

from . import tools_merge, tools_plans, tools_verbs
from .memory import peak_of
from .tools_networks import RANKS, network

SAMPLE = ((320, 320), (640, 640), (1280, 1280), (320, 2880), (640, 5760), (1280, 5120))
RESIDUALS = ((320, 320), (640, 640), (1280, 1280), (10240, 1280), (1280, 5120), (3072, 768))
KERNELS = ((320, 2880), (1280, 11520))
LIMITS = {
    "extract_time_ratio": 40.0, "extract_residual_ratio": 1.002, "extract_residual_ratio_noise": 1.002, "resize_time_ratio": 200.0,
    "merge_time_ratio": 1.5, "extract_memory_mb": 800.0, "merge_memory_mb": 400.0, "resize_memory_mb": 400.0,
    "extract_memory_sdxl_mb": 1000.0, "merge_memory_sdxl_mb": 1000.0, "resize_memory_sdxl_mb": 1000.0,
    **tools_verbs.LIMITS, **tools_plans.LIMITS,
}  # fmt: skip
STAGES = ("residual", "extract", "resize", "merge", "processes", "memory", "verbs", "plans")
AT_LEAST = ("extract_time_ratio", "resize_time_ratio")
PREFIXES = {
    "sd1": {"diffusion_model.": "model.diffusion_model.", "transformer.": "cond_stage_model.transformer."},
    "sdxl": {"diffusion_model.": "model.diffusion_model.", "0.": "conditioner.embedders.0.", "1.": "conditioner.embedders.1."},
}
RANK, DECAY, NOISE, SCALE = 64, 0.93, 0.055, 1e-3
EXTRACT = {"dim": 32, "conv_dim": 16}
MB = 1e6


def difference(rows: int, columns: int, noise: float = NOISE, signal: bool = True) -> Tensor:
    """Return a decaying part of rank 64 whose first singular value is about 1, plus noise whose largest one is about ``noise``."""
    made = torch.randn(rows, columns) * (noise / (sqrt(rows) + sqrt(columns)))
    if signal:
        rank = min(RANK, rows, columns)
        left, right = torch.randn(rows, rank) / sqrt(rows), torch.randn(rank, columns) / sqrt(columns)
        made += (left * DECAY ** torch.arange(rank)) @ right
    return made


def make_models(family: str, folder: Path) -> tuple[Path, Path]:
    """Write a base model and one tuned from it; return their paths."""
    paths = folder / f"{family}-base.safetensors", folder / f"{family}-tuned.safetensors"
    if all(path.exists() for path in paths):
        return paths
    layers = reference(family).layers
    with GrowingFile(paths[0], 2 * len(layers), 160, {}) as base, GrowingFile(paths[1], 2 * len(layers), 160, {}) as tuned:
        for module, info in layers.items():
            name = next((new + module[len(old) :] for old, new in PREFIXES[family].items() if module.startswith(old)), module)
            weight = (torch.randn(info.shape) * 0.02).half()
            change = torch.zeros(info.shape)
            if info.kind in ("Linear", "Conv2d", "MultiheadAttention"):
                size = SCALE * (prod(info.shape)) ** 0.25
                change = difference(info.shape[0], prod(info.shape[1:])).reshape(info.shape) * size
            leaf = {"MultiheadAttention": "in_proj_weight"}.get(info.kind, "weight")
            bare = info.kind == "Parameter"
            pair = {leaf: weight}, {leaf: (weight.float() + change).half()}
            for file, tensors in zip((base, tuned), pair, strict=True):
                file.add(name.rpartition(".")[0] if bare else name, {name.rpartition(".")[2]: tensors[leaf]} if bare else tensors)
            if info.bias:
                bias = (torch.randn(info.shape[0]) * 0.02).half()
                kind = "in_proj_bias" if leaf == "in_proj_weight" else "bias"
                base.add(name, {kind: bias})
                tuned.add(name, {kind: (bias.float() + torch.randn(info.shape[0]) * SCALE).half()})
        base.finish({})
        tuned.finish({})
    return paths


def seconds(work: Callable[[], Any]) -> float:
    """Return how long something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peer_modules(family: str) -> Counter[tuple[int, int]]:
    """Return how many matrices of each shape the peer decomposes: linear layers and convolutions of the blocks and the text encoder."""
    shapes: Counter[tuple[int, int]] = Counter()
    for module, info in reference(family).layers.items():
        if info.kind in ("Linear", "Conv2d") and not module.endswith(("emb_layers.1",)) and ".time_embed" not in module:
            shapes[(info.shape[0], prod(info.shape[1:]))] += 1
    return shapes


def peer_cost(full: bool) -> Callable[[int, int], float]:
    """Return (rows, columns) -> seconds of an SVD, from SAMPLE; each shape on one thread and on all, whichever is faster."""
    rows, times = [], []
    threads = torch.get_num_threads()
    for shape in SAMPLE:
        matrix = difference(*shape)
        found = []
        for count in {1, threads}:
            torch.set_num_threads(count)
            found.append(seconds(lambda: torch.linalg.svd(matrix, full_matrices=full)))  # noqa: B023
        torch.set_num_threads(threads)
        short, long = sorted(shape)
        rows.append([short * short * long, short * long * long])
        times.append(min(found))
    weights = torch.tensor(times, dtype=torch.float64).reciprocal()  # relative errors count: small shapes are most of the modules
    table = torch.tensor(rows, dtype=torch.float64) * weights[:, None]
    solution = torch.linalg.lstsq(table, torch.ones(len(rows), 1, dtype=torch.float64)).solution.clamp_min(0).flatten()
    return lambda m, n: float(solution[0] * min(m, n) ** 2 * max(m, n) + solution[1] * min(m, n) * max(m, n) ** 2)


def optimal_ratio(signal: bool) -> float:
    """Return the largest ratio, over shapes, of what our approximation leaves to what the best one leaves."""
    worst = 0.0
    for rank, shapes in ((32, RESIDUALS), (16, KERNELS)):
        for shape in shapes:
            matrix = difference(*shape, signal=signal)
            svd = randomized_svd(matrix, rank)
            ours = float((matrix.double() - (svd.u.double() * svd.s.double()) @ svd.v.double()).square().sum())
            wide = matrix.double() if shape[0] <= shape[1] else matrix.double().T
            values = torch.linalg.eigvalsh(wide @ wide.T)
            worst = max(worst, sqrt(ours / float(values[:-rank].sum())))
    return worst


def copy_seconds(source: Path, target: Path) -> float:
    """Return how long a plain read and write of a file takes, with fsync."""

    def copy() -> None:
        with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
            while block := read.read(16 << 20):
                write.write(block)
            os.fsync(write.fileno())

    taken = seconds(copy)
    target.unlink()
    return taken


class Bench:
    """The measurements; each method yields (name, value)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._costs: dict[bool, Callable[[int, int], float]] = {}

    def cost(self, full: bool) -> Callable[[int, int], float]:
        """Return the peer's cost, measured once."""
        if full not in self._costs:
            self._costs[full] = peer_cost(full)
        return self._costs[full]

    def extract_options(self, family: str) -> dict[str, Any]:
        """Return the options of the extraction that is measured."""
        base, tuned = make_models(family, self.folder)
        return {"model_org": str(base), "model_tuned": str(tuned), "save_to": str(self.folder / f"{family}-locon.safetensors"), **EXTRACT}

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

    def merge_options(self, family: str) -> dict[str, Any]:
        """Return the options of the merge that is measured."""
        base, _ = make_models(family, self.folder)
        target = str(self.folder / "merged.safetensors")
        return {"sd_model": str(base), "models": [self.network(family)], "ratios": [0.8], "save_to": target, "no_hash": True}

    def merge(self) -> Iterable[tuple[str, float]]:
        """How long a merge takes beside a copy of the checkpoint."""
        options = self.merge_options("sd1")
        plain, ours = [], []
        for _ in range(2):
            plain.append(copy_seconds(Path(options["sd_model"]), self.folder / "copy.safetensors"))
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
    parser.add_argument("--only", nargs="+", choices=STAGES, help="measure these alone")
    parser.add_argument("--sdxl", action="store_true", help="measure memory on the shapes of SDXL too (13 GB of disk)")
    parser.add_argument("--folder", type=Path, help="keep the models here, for the next run (default: a temporary folder)")
    given = parser.parse_args(arguments)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="lycoris-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    bench, results = Bench(folder), []
    names = given.only or STAGES
    try:
        stages = [getattr(bench, name)() for name in names] + ([bench.memory("sdxl")] if given.sdxl else [])
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
