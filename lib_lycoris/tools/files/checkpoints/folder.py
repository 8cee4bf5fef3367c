"""A diffusers folder as an output: built beside its place and renamed when it is whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ....atomic import beside
from ....errors import ToolError
from ....models.families import PIPELINE_PARTS
from ....networks.reading.header import data_start
from ....plain_json import read_json
from ...jobs.progress import Progress
from ..output import Output
from .checkpoint import Checkpoint

if TYPE_CHECKING:
    from typing_extensions import Self

WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".msgpack", ".onnx", ".onnx_data")


class OutputFolder:
    """A new folder as a context manager: on a normal end it appears under its name, on any other nothing of it is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.beside = beside(path)

    def __enter__(self) -> Self:
        self.beside.mkdir()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                if self.path.is_dir():
                    self.path.rmdir()  # empty: anything else was refused at the start
                os.replace(self.beside, self.path)
        except OSError as problem:
            raise ToolError(f"{self.path.name} could not be given its name: {problem.strerror}") from problem
        finally:
            shutil.rmtree(self.beside, ignore_errors=True)


def copy_other_files(checkpoint: Checkpoint, target: Path, progress: Progress) -> list[str]:
    """Copy what is not rewritten - configs, tokenizers, the VAE; return the weights left out: other forms of those that are merged."""
    rewritten = {source.path for source in checkpoint.sources}
    folders = {file.parent for file in rewritten}
    left_out = []
    for file in sorted(path for path in checkpoint.path.rglob("*") if path.is_file()):
        relative = file.relative_to(checkpoint.path)
        if file in rewritten:
            continue
        if relative.parts[0] in PIPELINE_PARTS and file.suffix in WEIGHTS:
            left_out.append(str(relative))
            continue
        if len(relative.parts) == 1 and file.suffix in WEIGHTS:
            left_out.append(str(relative))  # a whole checkpoint beside the folders
            continue
        place = target / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        with Output(place) as output, file.open("rb", buffering=0) as source:
            output.copy(source, 0, file.stat().st_size, progress)
        if file.parent in folders and file.name.endswith(".index.json"):
            correct_index(place)
    return left_out


def correct_index(index: Path) -> None:
    """Write the true size into the index of a model in several files; it changes with the dtype."""
    try:
        facts = read_json(index)
    except ValueError:  # whoever loads the folder will say so; no tensor of ours depends on it
        return
    named, told = (facts.get(key) if isinstance(facts, dict) else None for key in ("weight_map", "metadata"))
    beside = {file.name: file for file in index.parent.iterdir() if file.is_file()}
    names = list(named.values()) if isinstance(named, dict) else []
    if isinstance(told, dict) and "total_size" in told and all(isinstance(name, str) and name in beside for name in names):
        size = sum(_data_size(beside[name]) for name in set(names))
        if told["total_size"] != size:  # else the file stays as it is, to the byte
            told["total_size"] = size
            index.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


def _data_size(file: Path) -> int:
    return file.stat().st_size - data_start(file)
