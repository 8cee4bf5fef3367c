"""How true plans are: the time and the memory that a plan tells beside those of its run, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .memory import ROOT, watched

LIMITS = {"plan_time_ratio": 2.0, "plan_memory_ratio": 1.25}  # by how much the worst plan may be wrong, either way


def compared(tool: str, options: Mapping[str, Any]) -> dict[str, float]:
    """Run a tool and plan the same in a new process; return seconds and bytes of both."""
    command = [sys.executable, "-m", "tests.benchmarks.tools_plans", tool, json.dumps(options, default=str)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def results(cases: Iterable[tuple[str, str, Mapping[str, Any]]]) -> Iterable[tuple[str, float]]:
    """Yield by how much the plan of each case is wrong in time and in memory (1: right), and the worst of them."""
    worst = {"time": 1.0, "memory": 1.0}
    for name, tool, options in cases:
        found = compared(tool, options)
        for kind, planned, real in (("time", "planned_seconds", "seconds"), ("memory", "planned_bytes", "bytes")):
            off = found[planned] / max(found[real], 1e-9)
            yield f"plan_{kind}_{name}", off
            worst[kind] = max(worst[kind], off, 1 / max(off, 1e-9))
        yield f"plan_seconds_{name}", found["seconds"]
        yield f"plan_mb_{name}", found["bytes"] / 1e6
    for kind, value in worst.items():
        yield f"plan_{kind}_ratio", value


def _measure(tool: str, options: dict[str, Any]) -> dict[str, float]:
    import torch  # noqa: F401 - the level that memory is measured from is with it

    from lib_lycoris.tools.jobs.freed_memory import keep_freed_memory, share_freed_memory

    share_freed_memory()  # as on the command line
    keep_freed_memory()

    with watched() as peak:
        from lib_lycoris.tools.registry import load_tools

        load_tools()[tool]  # what is imported once is not the run

        started, cpu = time.perf_counter(), time.process_time()
        load_tools()[tool].run(**options)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    planned = load_tools()[tool].plan(**options)
    assert planned.seconds is not None and planned.memory_bytes is not None, f"{tool} plans neither time nor memory"
    return {"seconds": seconds, "cpu": cpu, "bytes": peak.bytes, "planned_seconds": planned.seconds, "planned_bytes": planned.memory_bytes}


def cases(folder: Path, base: Path, tuned: Path, networks: Mapping[str, str]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (name, tool, options) of what is planned and run: every tool that takes time."""
    out = str(folder / "out.safetensors")
    pair = {"model_org": str(base), "model_tuned": str(tuned)}
    locon, other, loha, lokr = (networks[kind] for kind in ("locon", "other", "loha", "lokr"))
    merged, undo = str(folder / "merged.safetensors"), str(folder / "merged.undo")
    merge = {"sd_model": str(base), "models": [locon], "ratios": [0.8], "save_to": merged}
    return [
        ("extract", "extract", {**pair, "save_to": out, "dim": 32, "conv_dim": 16}),
        ("extract_size", "extract", {**pair, "save_to": out, "size": 50.0}),
        ("extract_lokr", "extract", {**pair, "save_to": out, "algorithm": "lokr"}),
        ("measure", "measure", pair),
        ("merge", "merge", {**merge, "undo_file": undo}),
        ("merge_alone", "merge", {**merge, "save_to": out}),
        ("merge_two", "merge", {**merge, "models": [locon, loha], "ratios": [0.8, 0.5], "save_to": out, "no_hash": True}),
        ("verify", "verify", {"merged": merged, "sd_model": str(base), "models": [locon]}),
        ("undo", "undo", {"merged": merged, "undo_file": undo, "save_to": out}),
        ("networks", "networks_merge", {"models": [locon, other], "ratios": [0.8, 0.5], "save_to": out}),
        ("networks_rank", "networks_merge", {"models": [locon, other], "dim": 32, "save_to": out}),
        ("networks_loha", "networks_merge", {"models": [loha, lokr], "dim": 32, "save_to": out}),
        ("networks_size", "networks_merge", {"models": [locon, other], "size": 50.0, "save_to": out}),
        ("networks_ties", "networks_merge", {"models": [locon, other], "method": "ties", "dim": 32, "save_to": out}),
        ("resize", "resize", {"model": locon, "new_rank": 8, "save_to": out}),
        ("resize_rule", "resize", {"model": locon, "dynamic_method": "sv_fro", "dynamic_param": 0.9, "save_to": out}),
        ("resize_loha", "resize", {"model": loha, "new_rank": 8, "save_to": out}),
        ("slim", "slim", {"model": locon, "error": 0.2, "save_to": out}),
        ("slim_size", "slim", {"model": loha, "size": 30.0, "save_to": out}),
        ("convert", "convert", {"model": locon, "save_precision": "bf16", "save_to": out}),
        ("convert_loha", "convert", {"model": loha, "algorithm": "lora", "save_to": out}),
        ("bake", "bake", {"model": locon, "ratio": 0.7, "save_to": out}),
        ("prune", "prune", {"model": networks["dead"], "save_to": out}),
        ("split", "split", {"model": networks["dylora"], "ranks": [4, 16], "save_to": out}),
        ("metadata", "metadata", {"models": [locon], "title": "x", "save_to": out}),
        ("compare", "compare", {"models": [locon, loha]}),
        ("find", "find", {"library": [str(Path(path)) for path in networks.values()]}),
        ("made_of", "find", {"library": list(networks.values()), "checkpoint": merged, "base_model": str(base)}),
    ]


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], json.loads(sys.argv[2]))))
