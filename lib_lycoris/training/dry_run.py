"""What a run will take, from two real steps of its largest bucket: memory, seconds, size; nothing is written."""

from __future__ import annotations

import sys
import time

import torch

from ..errors import ToolError
from ..tools.units import megabytes
from .data.order import Batch, by_bucket
from .files import dtype_of
from .setup import Run

STEPS = 2
SAVINGS = (
    ("gradient_checkpointing", "--gradient_checkpointing: the activations by more than half"),
    ("mixed_precision", "--mixed_precision bf16: the base model and the activations by half"),
    ("train_batch_size", "a smaller --train_batch_size with more --gradient_accumulation_steps: the activations in proportion"),
    ("network_train_unet_only", "--network_train_unet_only: what the text encoders' gradients take"),
    ("optimizer_type", "--optimizer_type AdamW8bit: the optimiser's numbers by three quarters"),
    ("resolution", "a smaller --resolution: the activations in proportion to the area"),
)  # fmt: skip


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
    try:
        for _ in range(STEPS):
            started = time.monotonic()
            run.stepper.take([batch], run.optimiser, run.schedule)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.monotonic() - started)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ToolError(
            f"a batch of {size} images of {batch.items[0].fit.bucket} does not fit: {error}. What helps:\n{_savings(run)}"
        ) from error
    return _text(run, batch, seconds[-1] * run.settings.gradient_accumulation_steps)


def _text(run: Run, batch: Batch, seconds: float) -> str:
    tensors = run.network.tensors(dtype_of(run.settings))
    size = sum(tensor.nbytes for tensor in tensors.values())
    weights = sum(weight.numel() for weight in run.network.weights().values())
    parts: dict[str, int] = {}
    for one in run.network.entries:
        parts[one.component] = parts.get(one.component, 0) + 1
    layers = ", ".join(f"{count} layers of {part}" for part, count in parts.items())
    total = seconds * run.steps
    return "\n".join(
        [
            f"trained: {layers}; {weights:,} numbers with {run.request.algorithm}",
            "memory: {} at the largest batch, {} of {}x{}".format(_memory(run), len(batch.items), *batch.items[0].fit.bucket),
            f"time: {seconds:.2f} s a step, {run.steps} steps, {total / 60:.0f} min, without caching and images",
            f"file: {megabytes(size)}",
            "what would take less memory:",
            _savings(run),
            "nothing was written",
        ]
    )


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


def _savings(run: Run) -> str:
    settings = run.settings
    used = {
        "gradient_checkpointing": settings.gradient_checkpointing, "mixed_precision": settings.mixed_precision != "no",
        "train_batch_size": settings.train_batch_size == 1, "network_train_unet_only": settings.network_train_unet_only,
        "optimizer_type": settings.optimizer_type != "AdamW", "resolution": False,
    }  # fmt: skip
    return "\n".join(f"  {words}" for name, words in SAVINGS if not used[name])
