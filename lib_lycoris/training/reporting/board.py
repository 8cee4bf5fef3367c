"""Loss and rates for TensorBoard, where a folder for it is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ToolError


def open_board(folder: Path | None, name: str) -> Any:
    """Return a writer of TensorBoard's files; None without a folder. Raises ToolError where the package is missing."""
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ToolError("--logging_dir needs the package tensorboard; `python3 run.py train` installs it, elsewhere pip does") from error
    return SummaryWriter(str(folder / name))


def draw_step(board: Any, step: int, values: Mapping[str, float]) -> None:
    """Add the numbers of a step."""
    for name, value in values.items():
        board.add_scalar(name, value, step)
    board.flush()
