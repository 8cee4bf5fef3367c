"""What a run will take, from two real steps of its largest bucket: memory, seconds, size; nothing is written."""

from __future__ import annotations

import sys
import time

import torch

from ..tools.units import megabytes
from ..wording import counted, duration
from .data.order import Batch, by_bucket
from .files import dtype_of
from .memory import fitting, savings
from .setup import Run

STEPS = 2
USUAL = 100  # times that a training shows each image: what docs/algorithms.md measures by


def dry_run(run: Run) -> str:
    """Return the forecast for people. Raises ToolError where the largest bucket does not fit, saying what would help."""
    items = max(by_bucket(run.found.items).values(), key=lambda group: group[0].fit.bucket[0] * group[0].fit.bucket[1])
    size = run.found.datasets[items[0].dataset].batch_size * run.accelerator.num_processes
    batch = Batch(tuple((items * size)[:size]), 0, 0)
    run.lessons.cache = None
    device = run.model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    with fitting(run.settings, "a batch of {} of {}x{} pixels".format(counted(size, "image"), *items[0].fit.bucket)):
        for _ in range(STEPS):
            started = time.monotonic()
            run.stepper.take([batch], run.optimiser, run.schedule)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.monotonic() - started)
    return _text(run, batch, seconds[-1] * run.settings.gradient_accumulation_steps)


def _text(run: Run, batch: Batch, seconds: float) -> str:
    tensors = run.network.tensors(dtype_of(run.settings))
    size = sum(tensor.nbytes for tensor in tensors.values())
    weights = sum(weight.numel() for weight in run.network.weights().values())
    parts: dict[str, int] = {}
    for one in run.network.entries:
        parts[one.component] = parts.get(one.component, 0) + 1
    layers = ", ".join(f"{counted(count, 'layer')} of {part}" for part, count in parts.items())
    total = seconds * run.steps
    return "\n".join(
        [
            _seen(run),
            f"trained: {layers}; {weights:,} numbers with {run.request.algorithm}",
            "memory: {} at the largest batch, {} of {}x{}".format(_memory(run), len(batch.items), *batch.items[0].fit.bucket),
            f"time: {seconds:.2f} s a step, {duration(total)} for {counted(run.steps, 'step')}, without caching and images",
            f"file: {megabytes(size)}",
            "what would take less memory:",
            *(f"  {words}" for words in savings(run.settings)),
            "nothing was written",
        ]
    )


def _seen(run: Run) -> str:
    """Return how often each image is trained on, and what would be usual: from the size of the data follow the steps."""
    own = [item for item in run.found.items if not item.subset.regularisation]
    epochs = run.steps * run.settings.gradient_accumulation_steps / run.order.length
    times = epochs * sum(item.subset.repeats for item in own) / len(own)
    usual = max(1, round(run.steps * USUAL / times))
    seen = f"{counted(len(own), 'image')}, each seen {times:.3g} times in {counted(run.steps, 'step')}"
    return f"{seen}; about {USUAL} times are usual, which are {counted(usual, 'step')}"


def _memory(run: Run) -> str:
    if run.model.device.type == "cuda":
        used, whole = torch.cuda.max_memory_reserved(run.model.device), torch.cuda.get_device_properties(run.model.device).total_memory
        return f"{used / 1e9:.1f} of {whole / 1e9:.1f} GB of the GPU"
    return f"{_peak() / 1e9:.1f} GB of this computer's"


def _peak() -> int:
    """Return the most bytes of memory that this process had."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
