"""The network's files: the last one, those between, and which of them are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..networks.reading.dtypes import precision_dtype
from ..networks.writer import save
from ..tools.files.metadata import kohya_hashes
from ..tools.training.runs import FOLDER_ENDING
from .algorithms.trained_network import TrainedNetwork
from .reporting.recorded import Recorded

ENDING = ".safetensors"


def dtype_of(settings: Any) -> torch.dtype:
    """Return the dtype of the files."""
    return precision_dtype(settings.save_precision, torch.float32)


def run_folder(settings: Any, output: Path) -> Path:
    """Return where a run keeps its state, its progress and its images: beside the network."""
    return output / f"{settings.output_name}{FOLDER_ENDING}"


def final_file(settings: Any, output: Path) -> Path:
    """Return the file that a run is for."""
    return output / f"{settings.output_name}{ENDING}"


def write_network(path: Path, network: TrainedNetwork, settings: Any, recorded: Recorded, step: int, epoch: int) -> Path:
    """Write a file in the place of one before."""
    tensors = network.tensors(dtype_of(settings))
    metadata: Mapping[str, str] = recorded.metadata(step, epoch)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, tensors, {**metadata, **kohya_hashes(tensors, metadata)})
    return path


def between(settings: Any, output: Path, step: int, epoch: int | None) -> Path:
    """Return the name of a file before the last: sd-scripts' own, by step or by epoch."""
    number = f"-step{step:08d}" if epoch is None else f"-{epoch:06d}"
    return output / f"{settings.output_name}{number}{ENDING}"


def thin_out(settings: Any, output: Path, step: int, epoch: int) -> list[str]:
    """Remove files between that are older than what is to be kept, by sd-scripts' rules; return their names.

    Of steps those of the last so many stay, of epochs the last so many files, whatever lies between them.
    """
    name = re.escape(settings.output_name)
    by_step = sorted(_numbered(output, rf"{name}-step(\d{{8}}){re.escape(ENDING)}"))
    by_epoch = sorted(_numbered(output, rf"{name}-(\d{{6}}){re.escape(ENDING)}"))
    gone: list[Path] = []
    if settings.save_last_n_steps is not None:
        gone += [path for number, path in by_step if number < step - settings.save_last_n_steps]
    if settings.save_last_n_epochs is not None:
        gone += [path for number, path in by_epoch if number <= epoch - settings.save_last_n_epochs * (settings.save_every_n_epochs or 1)]
    if settings.keep_last is not None:
        every = sorted((path.stat().st_mtime_ns, path) for _, path in by_step + by_epoch)
        gone += [path for _, path in every[: max(len(every) - settings.keep_last, 0)]]
    names = sorted({path.name for path in gone})
    for path in set(gone):
        path.unlink(missing_ok=True)
    return names


def _numbered(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    found = [(re.fullmatch(pattern, path.name), path) for path in folder.iterdir()]
    return [(int(match[1]), path) for match, path in found if match]
