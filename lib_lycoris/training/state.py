"""Where a run is: written as a whole or not at all, so that a run that was killed goes on to the same bits.

Every random choice follows from the seed and the place in the run (:mod:`.draws`), so that no generator's state is needed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..atomic import replacing
from ..errors import ToolError
from ..plain_json import parse_json
from ..tools.training.runs import STATE
from ..tools.units import megabytes

IMAGES = "images or captions"


@dataclass
class RunState:
    """All that a step reads and changes."""

    step: int  # steps done
    network: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any] | None
    average: dict[str, torch.Tensor] | None
    mark: dict[str, Any]  # of the settings and data that it belongs to


def mark_of(settings: dict[str, Any], digests: list[str]) -> dict[str, Any]:
    """Return what a run's bits depend on: its settings as JSON has them, and a hash of its images and captions."""
    images = hashlib.blake2b(json.dumps(sorted(digests)).encode(), digest_size=16).hexdigest()
    return {**parse_json(json.dumps(settings)), IMAGES: images}


def write_state(folder: Path, state: RunState) -> None:
    """Put a state in the place of the one before. Raises ToolError, or OSError of the system."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(folder / STATE) as beside:
            torch.save(state.__dict__, beside)
    except RuntimeError as error:  # torch's own writer says nothing of the reason
        free = f"{megabytes(shutil.disk_usage(folder).free)} are free on its disk"
        raise ToolError(f"the state of {folder.name} cannot be written, the one before is kept; {free}") from error


def read_state(folder: Path, mark: dict[str, Any]) -> RunState | None:
    """Return the state that is kept; None where there is none. Raises ToolError for one of another run, or of no use."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        found = RunState(**torch.load(path, map_location="cpu", weights_only=True))
        before = dict(found.mark)
    except Exception as error:  # torch raises anything for a file of another kind; raised again as a sentence
        raise ToolError(f"the state in {folder.name} cannot be read ({type(error).__name__}); begin anew with --overwrite") from error
    other = sorted(name for name in {*mark, *before} if mark.get(name) != before.get(name))
    if other:
        raise ToolError(
            f"the run in {folder.name} was started with other settings ({', '.join(other)}), so it cannot go on with these; give those, "
            "--overwrite to begin anew, or another name and --network_weights with its file to train that further"
        )
    return found
