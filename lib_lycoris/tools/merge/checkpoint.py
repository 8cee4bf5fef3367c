"""Networks into a checkpoint: any mix of algorithms in one pass over the file, each tensor computed in float32 and rounded once.

What merges is imported when something is merged: importing torch takes as long as a good part of that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from ..files.output import input_hash
from ..jobs.progress import Progress
from ..validation import at_least

if TYPE_CHECKING:
    from .strengths import NetworkOptions

ROUNDINGS = ("nearest", "stochastic")


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
    with input_hash(_hashed_input(options)) as reading:  # begun first: it takes the longest, and torch is imported meanwhile
        from .into_checkpoint import merged

        return merged(options, reading, progress, began)


def _hashed_input(options: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint file whose hash is written: into the recipe, or into the undo file."""
    path, wanted = Path(options["sd_model"]), not (options["no_hash"] or options["no_metadata"]) or options["undo_file"] is not None
    return path if wanted and path.is_file() else None


def plan(**options: Any) -> Plan:
    """Tell what a merge would do, what it would take and what of the networks fits."""
    from .into_checkpoint import planned

    return planned(options)


def as_options(item: NetworkOptions) -> dict[str, Any]:
    """Return what was asked of one network as options of this tool."""
    return {"models": [item.path], **{key: [value] for key, value in item.as_json().items()}}


TOOL = Tool(
    "merge", "Merge into a checkpoint", "merge networks into a checkpoint", run, plan,
    (
        Option("sd_model", "the checkpoint: .safetensors, .ckpt or a folder (diffusers', or of one model in numbered files)", Path,
               required=True, kind="checkpoint"),
        MODELS, *PER_NETWORK,
        Option("dyn", "first n ranks of each network, 0 for all (DyLoRA)", int, nargs="+", per_network=True, check=at_least(0, "dyn")),
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
