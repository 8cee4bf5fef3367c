"""The memory that the loader takes and keeps, measured in a process of its own, which prints it as JSON.

A level is the process' anonymous memory after a collection, with what the C library holds for later given back; on an accelerator it is
that device's allocated memory as well. What the file's pages take in the page cache is the system's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from lib_lycoris.networks.writer import save

from . import loader_networks
from .loader_models import Model, make
from .loader_sides import Ours
from .loader_timing import Result
from .memory import ROOT, anonymous

GROWTH_LIMIT, LEFT_LIMIT = 1.2, 20.0  # of the factors' bytes; MB
CACHE = 256  # MiB, the limit under which a row of networks is used
MB = 1e6


def level() -> int:
    """Return the bytes held."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return anonymous() + (torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0)


class Memory:
    """A model, our loader on it, and what it takes."""

    def __init__(self, model: Model, folder: Path, row: int) -> None:
        self.model, self.folder, self.row = model, folder, row
        self.side = Ours(model, "functional", 0)
        self.dtype = next(model.parts["unet"].parameters()).dtype

    def file(self, kind: str) -> Path:
        """Return the path of a network."""
        return loader_networks.write(kind, Ours.names(self.model), self.folder, self.dtype)

    def used(self, path: Path) -> None:
        """Use a network and run every layer."""
        self.side.use(path, 0.8)
        self.side.model.probe()

    def growth(self, kind: str) -> Iterator[Result]:
        """Yield what one network takes, of its factors' bytes in the compute dtype; the first time torch itself takes something."""
        path = self.file(kind)
        factors = loader_networks.stored_bytes(path, self.dtype)
        self.used(path)
        self.side.reset()
        self.model.probe()
        before = level()
        self.used(path)
        grown = level() - before
        yield Result(f"memory_{kind}", grown / factors, GROWTH_LIMIT)
        yield Result(f"memory_{kind}_factors_mb", factors / MB, unit="MB")
        self.side.reset()

    def in_a_row(self, limit: int) -> Iterator[Result]:
        """Yield what is left of many networks used one after the other, when the last tag is gone."""
        tensors = loader_networks.tensors("lora", Ours.names(self.model), self.dtype)
        first = next(key for key in tensors if not key.endswith("alpha"))
        self.side.kept_mib = limit
        before = level()
        for number in range(self.row):
            path = self.folder / f"row-{number}.safetensors"
            tensors[first] = tensors[first] * 1.01
            save(path, tensors)
            self.used(path)
            path.unlink()
        self.side.off()
        self.side.model.probe()
        yield Result(f"memory_left_limit_{limit}_mb", (level() - before) / MB, limit * 2**20 / MB + LEFT_LIMIT, unit="MB")
        self.side.reset()


def results(kinds: tuple[str, ...], folder: Path, row: int, device: str, model: str = "sd1") -> Iterator[Result]:
    """Yield the figures of a new process."""
    command = [sys.executable, "-m", "tests.benchmarks.loader_memory", model, device, str(folder), str(row), *kinds]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            name, value, limit, unit = json.loads(line)
            yield Result(name, value, limit, unit=unit)
    if process.returncode:
        raise RuntimeError(f"the measurement of memory ended with {process.returncode}; the lines above say why")


def main(model: str, device: str, folder: str, row: str, *kinds: str) -> None:
    """Measure and print."""
    memory = Memory(make(model, device, torch.float32 if device == "cpu" else torch.float16), Path(folder), int(row))
    stages = [memory.growth(kind) for kind in kinds] + [memory.in_a_row(limit) for limit in (0, CACHE)]
    for stage in stages:
        for result in stage:
            print(json.dumps((result.name, result.value, result.limit, result.unit)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
