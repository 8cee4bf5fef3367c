"""What a checkpoint predicts, noise (epsilon) or velocity (v): a network of the difference works in images only where that is set too."""

from __future__ import annotations

from collections.abc import Mapping

from ...plain_json import read_json
from ..files.checkpoints.checkpoint import Checkpoint

KEY = "modelspec.prediction_type"
MARK = "v_pred"  # a tensor of this name in a checkpoint, for programs that read no metadata
NAMES = {"v": "v", "v_prediction": "v", "epsilon": "epsilon", "eps": "epsilon"}


def prediction(checkpoint: Checkpoint) -> str | None:
    """Return "v" or "epsilon", as the metadata, a marking tensor or a folder's scheduler says it; None where nothing does."""
    said = [metadata for source in checkpoint.sources for metadata in _said(source.metadata)]
    if checkpoint.path.is_dir():
        said.append(_scheduler(checkpoint))
    known = [NAMES[text] for text in said if text in NAMES]
    return "v" if MARK in checkpoint.entries else next(iter(known), None)


def changed(base: Checkpoint, tuned: Checkpoint) -> str | None:
    """Return a sentence where the tuned model predicts something else than the original, as far as they say; None where not."""
    old, new = prediction(base), prediction(tuned)
    if new == old or new is None or (new == "epsilon" and old is None):
        return None
    before = f"{base.path.name} predicts {old}" if old else f"{base.path.name} does not say that it does"
    return (
        f"{tuned.path.name} predicts {new}, {before}: with this network the model must be sampled as {new}-prediction, "
        f"which no network can set; the file says so in {KEY}"
    )


def _said(metadata: Mapping[str, str]) -> list[str]:
    parameterised = {"True": "v", "False": "epsilon"}.get(metadata.get("ss_v_parameterization", ""), "")
    return [metadata.get(KEY, "").lower().replace("-", "_"), parameterised]


def _scheduler(checkpoint: Checkpoint) -> str:
    """Return what a diffusers folder's scheduler is set to; nothing where there is none that can be read."""
    try:
        settings = read_json(checkpoint.path / "scheduler" / "scheduler_config.json")
    except (OSError, ValueError):
        return ""
    return str(settings.get("prediction_type", "")) if isinstance(settings, dict) else ""
