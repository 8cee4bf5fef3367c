"""A merged checkpoint + its undo file -> the original checkpoint, to the byte."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from ...errors import NetworkFormatError, ToolError, readable
from ...networks.reading.header import parse
from ...networks.reading.table import TensorInfo
from ...wording import counted
from ..declaration import SAVE_TO, FilePath, Option, Plan, Result, Tool
from ..files.checkpoints.ahead import Ahead, workers
from ..files.checkpoints.checkpoint import Checkpoint, CheckpointFile, open_checkpoint
from ..files.checkpoints.folder import OutputFolder, copy_other_files
from ..files.checkpoints.stream import as_bytes
from ..files.output import Output, refuse_inputs, require_space
from ..files.undo_file import Undo
from ..jobs.progress import Progress
from ..units import megabytes


def prepare(merged: Path | str, undo_file: Path | str, save_to: Path | str) -> tuple[Checkpoint, Undo]:
    """Open a merged checkpoint and its undo file. Raises ToolError when they do not belong together."""
    checkpoint, undo = open_checkpoint(merged), Undo(Path(undo_file))
    refuse_inputs(Path(save_to), [Path(merged), Path(undo_file)])
    if len(undo.files) != len(checkpoint.sources):
        raise ToolError(f"{undo.path.name} is for {len(undo.files)} files, but {checkpoint.path.name} has {len(checkpoint.sources)}")
    for facts, source in zip(undo.files, checkpoint.sources):
        places = {key: [entry.begin, entry.end] for key, entry in source.entries.items()}
        if facts["places"] != places or source.path.stat().st_size != facts["merged_size"]:
            raise ToolError(f"{undo.path.name} is not the undo file of {source.path.name}: it was written for {readable(undo.merged, 80)}")
    return checkpoint, undo


def run(merged: FilePath, undo_file: FilePath, save_to: FilePath, *, progress: Progress | None = None) -> Result:
    """Restore the checkpoint that a merge started from, to the byte.

    Raises:
        ToolError: the files do not belong together, or the result would not be the original; nothing is written then.
        NetworkFormatError: a file cannot be read.
    """
    progress, began, target = progress or Progress(), time.monotonic(), Path(save_to)
    checkpoint, undo = prepare(merged, undo_file, save_to)
    size = sum(source.path.stat().st_size for source in checkpoint.sources)
    require_space(target.parent, size, target.name)
    progress.start(size, "restoring", "B")
    if checkpoint.path.is_dir():
        with OutputFolder(target) as folder:
            for number, source in enumerate(checkpoint.sources):
                place = folder.beside / source.path.relative_to(checkpoint.path)
                place.parent.mkdir(parents=True, exist_ok=True)
                _restore(undo, number, source, place, progress)
            copy_other_files(checkpoint, folder.beside, progress)
    else:
        _restore(undo, 0, checkpoint.sources[0], target, progress)
    hashes = {facts["name"]: facts["sha256"] for facts in undo.files}
    seconds = round(time.monotonic() - began, 3)
    text = f"{target}: the original {undo.files[0]['name']} to the byte (sha256 {undo.files[0]['sha256']}), in {seconds:.1f} s"
    return Result({"output": str(target), "sha256": hashes, "identical": True, "seconds": seconds}, text, (target,))


def _restore(undo: Undo, number: int, merged: CheckpointFile, target: Path, progress: Progress) -> None:
    facts, header = undo.files[number], undo.header(number)
    entries = original_entries(header, undo.path.name, facts)
    ordered = sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end))
    changed = [(item, prod(item[1].shape)) for item in ordered if item[0] in facts["tensors"]]
    with Output(target, hashed=True) as output, merged.path.open("rb", buffering=0) as file, workers() as pool:
        output.write(len(header).to_bytes(8, "little") + header)
        ahead = Ahead(pool, lambda item: undo.original(number, *item, merged), changed)
        for key, entry in ordered:
            if key in facts["tensors"]:
                output.write(as_bytes(ahead.take()))
                progress.advance(entry.end - entry.begin, key)
            else:
                output.copy(file, merged.data_start + facts["places"][key][0], entry.end - entry.begin, progress)
        if output.digest() != facts["sha256"]:
            raise ToolError(f"{merged.path.name} was changed after the merge, the original {facts['name']} cannot be restored from it")


def original_entries(header: bytes, name: str, facts: Mapping[str, Any]) -> Mapping[str, TensorInfo]:
    """Return where each tensor was, from a kept header; facts: what the undo file says of the merged file's tensors, all of them."""
    try:
        found = parse(header, name).tensors
    except NetworkFormatError as error:
        raise ToolError(f"{name} is damaged: its copy of the header cannot be read ({error})") from error
    places = facts["places"]
    kept = {key: places[key][1] - places[key][0] for key in places if key not in facts["tensors"]}
    if found.keys() != places.keys() or any(found[key].end - found[key].begin != length for key, length in kept.items()):
        raise ToolError(f"{name} is damaged: its copy of the header lists other tensors than the merged file has")
    return found


def plan(merged: Path | str, undo_file: Path | str, save_to: Path | str) -> Plan:
    """Tell what an undo would write."""
    checkpoint, undo = prepare(merged, undo_file, save_to)
    size = sum(source.path.stat().st_size for source in checkpoint.sources)
    tensors = sum(len(facts["tensors"]) for facts in undo.files)
    memory = 6 * max((entry.end - entry.begin for entry in checkpoint.entries.values()), default=0)
    report: dict[str, Any] = {"merged": str(merged), "restored_tensors": tensors, "output": str(save_to), "bytes": size}
    return Plan(
        report, f"would restore {counted(tensors, 'tensor')} and write {save_to}: {megabytes(size)}", round(size / 1.8e8, 1), memory, size
    )


TOOL = Tool(
    "undo", "Undo a merge", "restore the checkpoint that a merge started from, to the byte", run, plan,
    (
        Option("merged", "the merged checkpoint", Path, flag="merged", required=True, kind="checkpoint"),
        Option("undo_file", "the undo file that the merge wrote", Path, None, "--undo-file", ("--undo_file",), required=True, kind="file"),
        replace(SAVE_TO, makes="checkpoint"),
    ),
)  # fmt: skip
