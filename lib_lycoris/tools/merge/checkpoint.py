"""Networks into a checkpoint: any mix of algorithms in one pass over the file, each tensor computed in float32 and rounded once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...atomic import replacing
from ...errors import ToolError
from ...records import dataclass
from ..declaration import (
    DEVICE,
    FAMILY,
    IGNORED_KOHYA,
    MODELS,
    PER_NETWORK,
    SAVE_PRECISION,
    SAVE_TO,
    Counts,
    FilePath,
    Files,
    Numbers,
    Option,
    Plan,
    Result,
    Texts,
    Tool,
    options_of,
)  # fmt: skip
from ..files.checkpoints.ahead import workers
from ..files.checkpoints.checkpoint import Checkpoint, CheckpointFile, open_checkpoint, refuse_packed
from ..files.checkpoints.folder import OutputFolder, copy_other_files
from ..files.checkpoints.stream import DATA_HASH, INPUT_HASH, Layout, Make, fill_in, lay_out, write_stream
from ..files.metadata import OWN_HASHES, base_entry, checkpoint_metadata, make_recipe, network_entry
from ..files.output import InputHash, Output, refuse_inputs, require_space
from ..files.undo_file import UndoFile
from ..jobs.progress import Progress
from ..jobs.workers import one_thread_each
from .deltas import Changes, find_changes
from .dtypes import require_fp8, target_dtypes
from .report import as_plan, as_result
from .rounding import ROUNDINGS
from .strengths import NetworkOptions, asked


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


def run(
    sd_model: FilePath, models: Files, save_to: FilePath, *, ratios: Numbers | None = None, te: Numbers | None = None,
    te2: Numbers | None = None, unet: Numbers | None = None, lbw: Texts | None = None, lbwe: Texts | None = None,
    dyn: Counts | None = None, save_precision: str | None = None, device: str = "cpu", undo_file: FilePath | None = None,
    no_hash: bool = False, no_metadata: bool = False, seed: int = 0, rounding: str = "nearest", family: str | None = None,
    progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Merge networks into a checkpoint: W' = round(W + Σ s · ΔW(W)), all from the same W, summed in float32, rounded once.

    Options of each network take one value for each of `models`, in their order. The report lists the keys that no tensor of the checkpoint
    takes (`unmatched`), and what changed (`changed_tensors`, `bytes`, `seconds`).

    Raises:
        ToolError: an option is wrong, nothing would change, a value does not fit into the dtype, or the disk is full.
        ModelMismatchError: a network fits no tensor of the checkpoint.
        NetworkFormatError: a file cannot be read.
    """
    return _merge(progress or Progress(), options_of(locals()))


def _merge(progress: Progress, options: Mapping[str, Any]) -> Result:
    began = time.monotonic()
    digest = None
    hashed = _hashed_input(options)
    with one_thread_each(), _input_hash(hashed) as reading:  # begun at once: it takes the longest, and the networks are read meanwhile
        job = prepare(progress=progress, **options)
        require_space(job.save_to.parent, job.size, job.save_to.name)
        progress.start(job.size, "merging", "B")
        if job.checkpoint.path.is_dir():
            _write_folder(job, progress)
        else:
            digest = _write_file(job, reading, progress)
    return as_result(job.changes, job.save_to, job.undo, job.size, digest, time.monotonic() - began)


def _hashed_input(options: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint file whose hash is written: into the recipe, or into the undo file."""
    path, wanted = Path(options["sd_model"]), not (options["no_hash"] or options["no_metadata"]) or options["undo_file"] is not None
    return path if wanted and path.is_file() else None


def _write_file(job: CheckpointMerge, reading: InputHash | None, progress: Progress) -> str | None:
    source, layout = job.checkpoint.sources[0], job.layouts[0]
    with ExitStack() as stack:
        kept = stack.enter_context(_undo_output(job))
        output = stack.enter_context(Output(job.save_to, job.hashed))
        undo = stack.enter_context(UndoFile(kept, job.save_to.name))
        pool = stack.enter_context(workers(job.changes.device))
        undo.begin(source)
        write_stream(output, source, layout, _maker(job, source), undo.keep, pool, progress)
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
            with _input_hash(source.path if job.undo else None) as reading, Output(target) as output:
                undo.begin(source)
                write_stream(output, source, layout, _maker(job, source), undo.keep, pool, progress)
                undo.end("" if reading is None else reading.result(), layout)
        job.changes.refuse_if_all_cancel()
        copy_other_files(job.checkpoint, folder.beside, progress)


def _maker(job: CheckpointMerge, source: CheckpointFile) -> Make:
    """Return the function that computes a tensor of a file."""

    def make(key: str, dtype: str) -> Tensor:
        tensor = job.changes.merged(source.prefix + key, dtype)
        job.changes.by_key.pop(source.prefix + key, None)  # its networks' tensors are needed no more
        return tensor

    return make


@contextmanager
def _input_hash(path: Path | None) -> Iterator[InputHash | None]:
    reading = None if path is None else InputHash(path)
    try:
        yield reading
    finally:
        if reading is not None:
            reading.stop()


def _undo_output(job: CheckpointMerge) -> AbstractContextManager[Output | None]:
    """Return the undo file's output; to be entered before the merge's, so that it gets its name last and is never without its merge."""
    return nullcontext() if job.undo is None else Output(job.undo)


def plan(**options: Any) -> Plan:
    """Tell what a merge would do, what it would take and what of the networks fits."""
    job = prepare(**options)
    job.changes.foresee_cancelled()
    return as_plan(job.changes, job.save_to, job.size, job.undo is not None, job.hashed)


def as_options(item: NetworkOptions) -> dict[str, Any]:
    """Return what was asked of one network as options of this tool."""
    return {"models": [item.path], **{key: [value] for key, value in item.as_json().items()}}


TOOL = Tool(
    "merge", "Merge into a checkpoint", "merge networks into a checkpoint", run, plan,
    (
        Option("sd_model", "the checkpoint: .safetensors, .ckpt or a folder (diffusers', or of one model in numbered files)", Path,
               required=True, kind="checkpoint"),
        MODELS, *PER_NETWORK,
        Option("dyn", "first n ranks of each network, 0 for all (DyLoRA)", int, nargs="+", per_network=True),
        replace(SAVE_TO, makes="checkpoint"), SAVE_PRECISION, FAMILY, DEVICE,
        Option("undo_file", "also write a file from which undo restores the checkpoint", Path, flag="--undo-file", kind="output",
               makes="file", aliases=("--undo_file",)),
        Option("no_hash", "do not hash the checkpoints (faster; verify then compares without them)", bool, False, "--no-hash",
               aliases=("--no_hash",)),
        Option("no_metadata", "leave the metadata as it is, without the recipe; verify cannot check such a file", bool, False),
        Option("seed", "the seed that R and U block weights, and stochastic rounding, are drawn with", int, 0),
        Option("rounding", "how changed weights become fp8: stochastic keeps in sum what is smaller than its steps", default="nearest",
               choices=ROUNDINGS),
        *IGNORED_KOHYA,
    ),
)  # fmt: skip
