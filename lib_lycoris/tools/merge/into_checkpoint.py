"""A checkpoint with networks merged into it: what is decided before the first byte is written, and the writing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from ...atomic import replacing
from ...errors import ToolError
from ...records import dataclass
from ..declaration import Plan, Result
from ..files.checkpoints.ahead import workers
from ..files.checkpoints.checkpoint import Checkpoint, CheckpointFile, open_checkpoint, refuse_packed
from ..files.checkpoints.folder import OutputFolder, copy_other_files
from ..files.checkpoints.stream import DATA_HASH, INPUT_HASH, Layout, Rows, fill_in, lay_out, write_stream
from ..files.metadata import OWN_HASHES, base_entry, checkpoint_metadata, make_recipe, network_entry
from ..files.output import InputHash, Output, input_hash, refuse_inputs, require_space
from ..files.undo_file import Kept, UndoFile
from ..jobs.progress import Progress
from ..jobs.workers import one_thread_each
from .deltas import Changes, find_changes
from .dtypes import require_fp8, target_dtypes
from .report import as_plan, as_result
from .strengths import asked


@dataclass(frozen=True, eq=False)
class CheckpointMerge:
    """A merge, decided in all its parts."""

    checkpoint: Checkpoint
    changes: Changes
    recipe: Mapping[str, Any]
    layouts: tuple[Layout, ...]  # one for each of the checkpoint's files
    save_to: Path
    hashed: bool
    undo: Path | None

    @property
    def size(self) -> int:
        """Bytes that will be written."""
        return sum(layout.size for layout in self.layouts)


def prepare(
    sd_model: Path | str, models: Sequence[Path | str], save_to: Path | str, save_precision: str | None = None, device: str = "cpu",
    no_hash: bool = False, no_metadata: bool = False, undo_file: Path | str | None = None, seed: int = 0, family: str | None = None,
    rounding: str = "nearest", progress: Progress | None = None, **strengths: Any,
) -> CheckpointMerge:  # fmt: skip
    """Read all headers and networks and decide what is written; strengths: ratios, te, te2, unet, lbw, lbwe, dyn."""
    wanted = asked(models, **strengths)
    checkpoint = open_checkpoint(sd_model)
    refuse_packed(checkpoint)
    save_to = _target(checkpoint, Path(save_to), [checkpoint.path, *(item.file for item in wanted)])
    if undo_file is not None:
        _check_undo(checkpoint, save_to, Path(undo_file))
    changes = find_changes(checkpoint, wanted, seed, device, progress or Progress(), family, rounding)
    hashed = not (no_hash or checkpoint.path.is_dir())
    by_chance = rounding != "nearest"
    told = {"save_precision": save_precision, "seed": seed or None, "family": family, "rounding": rounding if by_chance else None}
    recipe = _recipe(checkpoint, changes, hashed or undo_file is not None, **told)
    dtypes = target_dtypes(checkpoint, save_precision)
    if by_chance:
        require_fp8(checkpoint, changes, dtypes)
    layouts = tuple(_layout(source, changes, dtypes, recipe, save_to, hashed, no_metadata) for source in checkpoint.sources)
    return CheckpointMerge(checkpoint, changes, recipe, layouts, save_to, hashed, Path(undo_file) if undo_file is not None else None)


def _target(checkpoint: Checkpoint, save_to: Path, inputs: list[Path]) -> Path:
    refuse_inputs(save_to, inputs)
    if checkpoint.path.is_dir():
        if save_to.exists() and (not save_to.is_dir() or any(save_to.iterdir())):
            raise ToolError(f"{save_to.name} is there already; a folder is written to a new or empty one")
        if pickled := next((source for source in checkpoint.sources if not source.raw_header), None):
            raise ToolError(
                f"{pickled.prefix}{pickled.path.name} of {checkpoint.path.name} is no .safetensors file, and a merged folder has no other; "
                "save the model with safe_serialization=True first"
            )
    elif save_to.suffix != ".safetensors":
        raise ToolError(f"{save_to.name} must end in .safetensors, the format that checkpoints are written in")
    return save_to


def _check_undo(checkpoint: Checkpoint, save_to: Path, undo_file: Path) -> None:
    if any(not source.raw_header for source in checkpoint.sources):
        raise ToolError(
            f"{checkpoint.path.name} is no .safetensors file and cannot be restored to the byte; keep it instead of an undo file"
        )
    refuse_inputs(undo_file, [checkpoint.path, save_to])


def _recipe(checkpoint: Checkpoint, changes: Changes, hashed: bool, **options: Any) -> dict[str, Any]:
    networks = [network_entry(mixed.asked) for mixed in changes.networks]
    return make_recipe("merge", sd_model=base_entry(checkpoint, hashed), networks=networks, **options)


def _layout(
    source: CheckpointFile,
    changes: Changes,
    dtypes: Mapping[str, str],
    recipe: Mapping[str, Any],
    save_to: Path,
    hashed: bool,
    no_metadata: bool,
) -> Layout:
    prefix = source.prefix
    mine = {key: dtypes[prefix + key] for key in source.entries if prefix + key in dtypes}
    made = {key for key in source.entries if prefix + key in changes.by_key} | mine.keys()
    networks = [mixed.metadata for mixed in changes.networks]
    metadata = {key: value for key, value in source.metadata.items() if key not in OWN_HASHES} if made else dict(source.metadata)
    if not no_metadata and made:
        metadata = checkpoint_metadata(source.metadata, recipe, changes.checkpoint.base.family, save_to.stem, networks, hashed)
    return lay_out(source, mine, made, metadata)


def merged(options: Mapping[str, Any], reading: InputHash | None, progress: Progress, began: float) -> Result:
    """Merge as options ask; reading: the hash of the checkpoint, which is being taken, began: the time at which that was begun."""
    digest = None
    with one_thread_each():
        job = prepare(progress=progress, **options)
        require_space(job.save_to.parent, job.size, job.save_to.name)
        progress.start(job.size, "merging", "B")
        if job.checkpoint.path.is_dir():
            _write_folder(job, progress)
        else:
            digest = _write_file(job, reading, progress)
    return as_result(job.changes, job.save_to, job.undo, job.size, digest, time.monotonic() - began)


def planned(options: Mapping[str, Any]) -> Plan:
    """Tell what a merge would do, what it would take and what of the networks fits."""
    job = prepare(**options)
    job.changes.foresee_cancelled()
    return as_plan(job.changes, job.save_to, job.size, job.undo is not None, job.hashed)


def _write_file(job: CheckpointMerge, reading: InputHash | None, progress: Progress) -> str | None:
    source, layout = job.checkpoint.sources[0], job.layouts[0]
    with ExitStack() as stack:
        kept = stack.enter_context(_undo_output(job))
        output = stack.enter_context(Output(job.save_to, job.hashed))
        undo = stack.enter_context(UndoFile(kept, job.save_to.name))
        pool = stack.enter_context(workers(job.changes.device))
        undo.begin(source)
        write_stream(output, source, layout, _Merging(job, source, undo), pool, progress)
        job.changes.refuse_if_all_cancel()
        hashes = {} if reading is None else {INPUT_HASH: reading.result()}
        undo.end(hashes.get(INPUT_HASH, ""), layout)
        if job.hashed:
            hashes[DATA_HASH] = output.digest()
        fill_in(output, layout.head, hashes)
    _carry_configuration(source.path, job.save_to)
    return hashes.get(DATA_HASH)


def _carry_configuration(checkpoint: Path, save_to: Path) -> None:
    """Copy the checkpoint's .yaml, without which webuis do not load it; one that lies beside the new file already stays."""
    source, target = checkpoint.with_suffix(".yaml"), save_to.with_suffix(".yaml")
    if source.is_file() and not target.exists():
        with replacing(target) as part:
            shutil.copyfile(source, part)


def _write_folder(job: CheckpointMerge, progress: Progress) -> None:
    with ExitStack() as stack:
        kept = stack.enter_context(_undo_output(job))
        folder = stack.enter_context(OutputFolder(job.save_to))
        undo = stack.enter_context(UndoFile(kept, job.save_to.name))
        pool = stack.enter_context(workers(job.changes.device))
        for source, layout in zip(job.checkpoint.sources, job.layouts):
            target = folder.beside / source.path.relative_to(job.checkpoint.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with input_hash(source.path if job.undo else None) as reading, Output(target) as output:
                undo.begin(source)
                write_stream(output, source, layout, _Merging(job, source, undo), pool, progress)
                undo.end("" if reading is None else reading.result(), layout)
        job.changes.refuse_if_all_cancel()
        copy_other_files(job.checkpoint, folder.beside, progress)


class _Merging:
    """Makes the changed tensors of a file, and packs and keeps the old ones for an undo."""

    def __init__(self, job: CheckpointMerge, source: CheckpointFile, undo: UndoFile) -> None:
        self._changes, self._prefix, self._undo = job.changes, source.prefix, undo
        self._kept: dict[str, Kept] | None = {} if job.undo is not None else None  # of whole tensors

    def portions(self, key: str) -> Sequence[Rows]:
        return [None] if self._kept is not None else self._changes.portions(self._prefix + key)

    def make(self, key: str, dtype: str, rows: Rows) -> Tensor:
        made = self._changes.merged(self._prefix + key, dtype, rows)
        if self._kept is not None:
            self._kept[key] = self._undo.packed(key, dtype, made)
        return made

    def written(self, key: str) -> None:
        if self._kept is not None:
            self._undo.keep(key, self._kept.pop(key))
        self._changes.by_key.pop(self._prefix + key, None)  # its networks' tensors are needed no more


def _undo_output(job: CheckpointMerge) -> AbstractContextManager[Output | None]:
    """Return the undo file's output; to be entered before the merge's, so that it gets its name last and is never without its merge."""
    return nullcontext() if job.undo is None else Output(job.undo)
