"""Which dtype each tensor of a merged checkpoint is written in."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import ToolError
from ...networks.reading.dtypes import FLOATS, PRECISIONS
from ..files.checkpoints.checkpoint import Checkpoint
from .deltas import FP8_LARGEST, Changes

TABLES = ("token_embedding.weight", "position_embedding.weight", "embed_tokens.weight", "shared.weight")  # looked up, never multiplied


def target_dtypes(checkpoint: Checkpoint, precision: str | None) -> dict[str, str]:
    """Return the new dtype of every tensor whose dtype changes; only the UNet's and the text encoders' do.

    fp8 is for what is multiplied: norms, biases and tables that are looked up keep their dtype. Raises ToolError for an unknown name.
    """
    if precision is None:
        return {}
    if precision not in PRECISIONS:
        raise ToolError(f'"{precision}" is not a precision; use one of {", ".join(PRECISIONS)}')
    code = PRECISIONS[precision]
    found = {}
    for key in checkpoint.model_keys:
        entry = checkpoint.entries.get(key)
        if entry is None or entry.dtype not in FLOATS or entry.dtype == code:
            continue
        if code.startswith("F8") and (len(entry.shape) < 2 or key.endswith(TABLES)):
            continue
        found[key] = code
    return found


def require_fp8(checkpoint: Checkpoint, changes: Changes, dtypes: Mapping[str, str]) -> None:
    """Raise ToolError where no tensor that changes is written with so few digits that the way of rounding matters."""
    if not any(dtypes.get(key, checkpoint.entries[key].dtype) in FP8_LARGEST for key in changes.keys):
        raise ToolError(
            "`rounding=stochastic` is for fp8, in which none of the changed tensors is written; leave it out, or give `save_precision=fp8`"
        )
