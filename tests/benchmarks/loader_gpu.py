"""What only an accelerator shows: absolute times, its memory's peak, and whether its graphs and torch's compiler take a changed model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .loader_models import Model
from .loader_sides import Ours
from .loader_stages import Stages
from .loader_timing import Result, of, seconds

TIMES = 20
AGREEMENT_LIMIT = 0.02  # largest difference, of the plain run's largest value, in half precision
MS, MB = 1e3, 1e6


def results(stages: Stages) -> Iterator[Result]:
    """Yield absolute times and peaks, and how well graphs and the compiler agree with the plain run."""
    ways: Any = [way for way in stages.plan.ways if way != "auto"]
    size = stages.plan.size
    yield of("gpu_step_plain_ms", timed(lambda: stages.model.step(size)), unit="ms")
    yield Result("gpu_peak_plain_mb", peak(lambda: stages.model.step(size)), unit="MB")
    for kind in stages.kinds:
        for way in ways:
            side = Ours(stages.model, way)
            first = peak(lambda: (side.use(stages.file(kind), 0.8), side.model.step(size)))  # noqa: B023
            yield Result(f"gpu_peak_{kind}_{way}_mb", first, unit="MB")
            yield of(f"gpu_step_{kind}_{way}_ms", timed(lambda: side.model.step(size)), unit="ms")  # noqa: B023
            yield Result(f"gpu_graph_{kind}_{way}", distance(side.model, graphed(side.model, size), size), AGREEMENT_LIMIT)
            yield Result(f"gpu_compile_{kind}_{way}", distance(side.model, compiled(side.model, size), size), AGREEMENT_LIMIT)
            side.reset()


def timed(work: Callable[[], Any]) -> list[float]:
    """Return milliseconds, after some runs that are not counted."""
    for _ in range(3):
        work()
    return [seconds(work) * MS for _ in range(TIMES)]


def peak(work: Callable[[], Any]) -> float:
    """Return the largest allocated memory in MB while something runs."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / MB


def graphed(model: Model, size: int) -> Tensor:
    """Return a step's result from a CUDA graph that was recorded of it and then replayed; what is prepared, is before."""
    model.inputs(size, 2)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            model.step(size)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = model.step(size)
    graph.replay()
    torch.cuda.synchronize()
    return found.clone()


def compiled(model: Model, size: int, backend: str = "inductor") -> Tensor:
    """Return a step's result from the compiled UNet."""
    torch._dynamo.reset()
    return model.through(torch.compile(model.parts["unet"], backend=backend), size, 2)


def distance(model: Model, other: Tensor, size: int) -> float:
    """Return the largest difference to the plain run, of its largest value."""
    usual = model.step(size)
    return float((usual - other).abs().max() / usual.abs().max())
