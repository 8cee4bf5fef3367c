"""A merged checkpoint against its recipe: everything is computed again from the inputs and compared bit by bit."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import NetworkFormatError, ToolError
from ...networks.hashes import sha256
from ...networks.reading.folder import file_of
from ...networks.reading.table import TensorInfo
from ...records import dataclass
from ..declaration import DEVICE, FilePath, Files, Option, Plan, Result, Tool, options_of
from ..files.checkpoints.ahead import Ahead, workers
from ..files.checkpoints.checkpoint import Checkpoint, CheckpointFile, open_checkpoint
from ..files.checkpoints.stream import Rows, as_bytes, count
from ..files.metadata import header_hash
from ..files.output import input_hash
from ..jobs.progress import Progress
from .deltas import Changes, find_changes
from .dtypes import target_dtypes
from .recorded import recorded_merge
from .report import memory_of
from .strengths import NetworkOptions

ROUNDING = 1  # units in the last place that another processor's order of additions may make


@dataclass(frozen=True, eq=False)
class Check:
    """A merged checkpoint, its recipe and the inputs that the recipe names."""

    merged: Checkpoint
    recipe: Mapping[str, Any]
    checkpoint: Checkpoint
    changes: Changes
    dtypes: Mapping[str, str]
    inputs: Sequence[tuple[str, Path]]  # recorded name, and the file that was taken for it; the checkpoint first


def prepare(
    opened: Checkpoint, sd_model: Path | str | None = None, models: Sequence[Path | str] = (), folders: Sequence[Path | str] = (),
    device: str = "cpu", progress: Progress | None = None,
) -> Check:  # fmt: skip
    """Find the inputs of a merge: those given, else files of the recorded hash beside the merged one or in folders, by any name."""
    found = next((s for s in opened.sources if "lycoris.recipe" in s.metadata), opened.sources[0])
    recipe = recorded_merge(found.metadata, opened.path.name)
    places = [opened.path.parent, *map(Path, folders), Path.cwd()]
    base = _locate(recipe["sd_model"], [Path(sd_model)] if sd_model else [], places, "sd_model")
    wanted = [_asked(entry, [Path(m) for m in models], places) for entry in recipe["networks"]]
    checkpoint = open_checkpoint(base)
    given = recipe.get("seed", 0), device, progress or Progress(), recipe.get("family"), recipe.get("rounding", "nearest")
    changes = find_changes(checkpoint, wanted, *given)
    names = [recipe["sd_model"]["name"], *(entry["name"] for entry in recipe["networks"])]
    inputs = list(zip(names, [base, *(item.path for item in wanted)]))
    return Check(opened, recipe, checkpoint, changes, target_dtypes(checkpoint, recipe.get("save_precision")), inputs)


def _asked(entry: Mapping[str, Any], given: list[Path], places: list[Path]) -> NetworkOptions:
    strengths = {key: entry[key] for key in ("te", "te2", "unet", "lbw", "lbwe", "dyn") if key in entry}
    return NetworkOptions(_locate(entry, given, places, "models"), **strengths)


def _locate(entry: Mapping[str, Any], given: list[Path], places: list[Path], option: str) -> Path:
    """Return the file that a recipe's entry names, by its hash. Raises ToolError when it is not found, or is another one."""
    named = (place / Path(entry["name"]).name for place in places)
    for path in chain(given, named, chain.from_iterable(map(_held, places))):
        if path.exists() and _is(path, entry):
            return path
    known = entry.get("sha256") or entry.get("header_sha256") or "no hash"
    raise ToolError(
        f"{entry['name']}, which the recipe names ({known[:12]}), is not in the folder of the merged one, nor under another name in those "
        f"that were looked through; give it as `{option}`"
    )


def _held(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if os.access(path, os.R_OK))
    except OSError:  # gone, or not ours to read: what is sought may lie in another one
        return []


def _is(path: Path, entry: Mapping[str, Any]) -> bool:
    if "files" in entry:
        return path.is_dir() and all((path / f["file"]).is_file() and _is(path / f["file"], f) for f in entry["files"])
    try:
        path = file_of(path)
    except (NetworkFormatError, OSError):
        return False  # another folder
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return False
    wanted: str = entry.get("sha256") or entry["header_sha256"]
    return (sha256(path) if "sha256" in entry else header_hash(path)) == wanted


def run(
    merged: FilePath, sd_model: FilePath | None = None, models: Files = (), folders: Files = (), *, device: str = "cpu",
    progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Recompute a merged checkpoint from its recipe and compare it bit by bit; the report's `identical` is the answer.

    Raises:
        ToolError: the file holds no recipe, or an input that the recipe names is not found or is another file.
        NetworkFormatError: a file cannot be read.
    """
    return _run(progress or Progress(), options_of(locals()))


def _run(progress: Progress, options: Mapping[str, Any]) -> Result:
    began, given = time.monotonic(), dict(options)
    opened = open_checkpoint(given.pop("merged"))
    with ExitStack() as stack:
        # begun first, while the inputs are found by their own hashes
        readings = [stack.enter_context(input_hash(s.path if _recorded(s) else None, s.data_start)) for s in opened.sources]
        check = prepare(opened, progress=progress, **given)
        differing, largest = _compare(check, progress)
        hashes = [None if reading is None else reading.result() for reading in readings]
    written = None if None in hashes else hashes == [_recorded(source) for source in opened.sources]
    ok = not differing if written is not True else largest <= ROUNDING
    report = {
        "merged": str(check.merged.path), "ok": ok, "identical": not differing, "as_written": written,
        "tensors": len(check.merged.entries), "differing": differing, "first": differing[0] if differing else None,
        "inputs": [str(path) for _, path in check.inputs], "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    renamed = [f"{name} is called {path.name} here" for name, path in check.inputs if Path(name).name != path.name]
    return Result(report, "\n".join([_text(check, written, differing, ok), *renamed]))


def _recorded(source: CheckpointFile) -> str | None:
    """Return the hash of a merged file's data that was written into it."""
    written = source.metadata.get("modelspec.hash_sha256", "").removeprefix("0x")
    return written if written and "lycoris.recipe" in source.metadata else None


def _compare(check: Check, progress: Progress) -> tuple[list[str], float]:
    """Return the keys that differ, in the file's order, and the largest difference in units in the last place."""
    base, merged = check.checkpoint.entries, check.merged.entries
    unlike = sorted(key for key in base.keys() | merged.keys() if _shape(base, key) != _shape(merged, key))
    if unlike:
        return unlike, float("inf")
    portions = [(key, rows) for key in sorted(merged, key=lambda key: merged[key].begin) for rows in check.changes.portions(key)]
    progress.start(sum(entry.end - entry.begin for entry in merged.values()), "comparing", "B")
    differing: dict[str, None] = {}
    largest = 0.0
    with workers(check.changes.device) as pool:
        ahead = Ahead(pool, lambda one: _expected(check, *one), [(one, count(merged[one[0]].shape, one[1])) for one in portions])
        for key, rows in portions:
            expected, found = ahead.take(), check.merged.read(key, rows)
            if expected.dtype != found.dtype or not torch.equal(_raw(expected), _raw(found)):
                differing[key] = None
                largest = max(largest, _units(expected, found))
            progress.advance(found.nbytes, key)
    return [*differing], largest


def _shape(entries: Mapping[str, TensorInfo], key: str) -> tuple[int, ...] | None:
    return entries[key].shape if key in entries else None


def _expected(check: Check, key: str, rows: Rows) -> Tensor:
    if key not in check.changes.by_key and key not in check.dtypes:
        return check.checkpoint.read(key, rows)
    return check.changes.merged(key, check.dtypes.get(key, check.checkpoint.entries[key].dtype), rows)


def _raw(tensor: Tensor) -> Tensor:
    return torch.frombuffer(as_bytes(tensor), dtype=torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


def _units(expected: Tensor, found: Tensor) -> float:
    """Return the largest difference of two tensors in steps between neighbouring values of their dtype."""
    sizes = {1: torch.int8, 2: torch.int16, 4: torch.int32}
    if expected.dtype != found.dtype or not found.is_floating_point() or found.element_size() not in sizes:
        return float("inf")
    ordered = [_ordered(t.reshape(-1).view(sizes[t.element_size()]).to(torch.int64), t.element_size()) for t in (expected, found)]
    return float((ordered[0] - ordered[1]).abs().max())


def _ordered(bits: Tensor, size: int) -> Tensor:
    """Return integers in the order of the floats that have these bits: negative ones count downwards."""
    return torch.where(bits < 0, -(bits + (1 << (8 * size - 1))), bits)


def _text(check: Check, written: bool | None, differing: list[str], ok: bool) -> str:
    name, count = check.merged.path.name, len(check.merged.entries)
    be = "is" if len(differing) == 1 else "are"
    if not differing:
        return f"{name}: all {count} tensors are, bit by bit, what the recipe gives"
    if ok:
        here = f"computed on this machine, {len(differing)} of {count} tensors {be} rounded otherwise (by 1 in the last place)"
        return f"{name}: the file is as it was written; {here}"
    hint = "; the file is as it was written, so an input is another one" if written else ""
    return f"{name}: {len(differing)} of {count} tensors {be} not what the recipe gives, the first is {differing[0]}{hint}"


def plan(**options: Any) -> Plan:
    """Tell what a check would read."""
    check = prepare(open_checkpoint(options.pop("merged")), **options)
    size = sum(source.path.stat().st_size for source in (*check.merged.sources, *check.checkpoint.sources))
    inputs = [str(path) for _, path in check.inputs]
    report = {"merged": str(check.merged.path), "inputs": inputs, "tensors": len(check.merged.entries)}
    return Plan(
        report,
        f"would compute {check.merged.path.name} again from {', '.join(inputs)}",
        round(size / 8e8, 1),
        memory_of(check.changes),
        0,
    )


TOOL = Tool(
    "verify", "Verify a merge", "recompute a merged checkpoint from its recipe and compare it bit by bit", run, plan,
    (
        Option("merged", "the merged checkpoint", Path, flag="merged", required=True, kind="checkpoint"),
        Option("sd_model", "the checkpoint that was merged into (default: looked for in the folder of the merged one)", Path,
               kind="checkpoint", label="Checkpoint that was merged into"),
        Option("models", "the networks that were merged (default: looked for in the folder of the merged file)", Path, (), nargs="*",
               kind="networks", label="Networks that were merged"),
        Option("folders", "further folders to look for the inputs in", Path, (), nargs="*", kind="folder"),
        DEVICE,
    ),
)  # fmt: skip
