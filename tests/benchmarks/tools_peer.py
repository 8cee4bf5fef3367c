"""The peer's way (sd-scripts): a full SVD with full matrices of every module; and how near to the best approximation ours comes.

Decomposing all modules takes a quarter of an hour; it is measured on SAMPLE, and a m² n + b m n², fitted to that, stands for the shapes of
which there are more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod, sqrt

import torch

from lib_lycoris.models import reference
from lib_lycoris.tools.linalg.low_rank import randomized_svd

from .loader_timing import seconds
from .tools_models import difference

SAMPLE = ((320, 320), (640, 640), (1280, 1280), (320, 2880), (640, 5760), (1280, 5120))
RESIDUALS = ((320, 320), (640, 640), (1280, 1280), (10240, 1280), (1280, 5120), (3072, 768))
KERNELS = ((320, 2880), (1280, 11520))


def peer_modules(family: str) -> Counter[tuple[int, int]]:
    """Return how many matrices of each shape the peer decomposes: linear layers and convolutions of the blocks and the text encoder."""
    shapes: Counter[tuple[int, int]] = Counter()
    for module, info in reference(family).layers.items():
        if info.kind in ("Linear", "Conv2d") and not module.endswith(("emb_layers.1",)) and ".time_embed" not in module:
            shapes[(info.shape[0], prod(info.shape[1:]))] += 1
    return shapes


def peer_cost(full: bool) -> Callable[[int, int], float]:
    """Return (rows, columns) -> seconds of an SVD, from SAMPLE; each shape on one thread and on all, whichever is faster."""
    rows, times = [], []
    threads = torch.get_num_threads()
    for shape in SAMPLE:
        matrix = difference(*shape)
        found = []
        for count in {1, threads}:
            torch.set_num_threads(count)
            found.append(seconds(lambda: torch.linalg.svd(matrix, full_matrices=full)))  # noqa: B023
        torch.set_num_threads(threads)
        short, long = sorted(shape)
        rows.append([short * short * long, short * long * long])
        times.append(min(found))
    weights = torch.tensor(times, dtype=torch.float64).reciprocal()  # relative errors count: small shapes are most of the modules
    table = torch.tensor(rows, dtype=torch.float64) * weights[:, None]
    solution = torch.linalg.lstsq(table, torch.ones(len(rows), 1, dtype=torch.float64)).solution.clamp_min(0).flatten()
    return lambda m, n: float(solution[0] * min(m, n) ** 2 * max(m, n) + solution[1] * min(m, n) * max(m, n) ** 2)


def optimal_ratio(signal: bool) -> float:
    """Return the largest ratio, over shapes, of what our approximation leaves to what the best one leaves."""
    worst = 0.0
    for rank, shapes in ((32, RESIDUALS), (16, KERNELS)):
        for shape in shapes:
            matrix = difference(*shape, signal=signal)
            svd = randomized_svd(matrix, rank)
            ours = float((matrix.double() - (svd.u.double() * svd.s.double()) @ svd.v.double()).square().sum())
            wide = matrix.double() if shape[0] <= shape[1] else matrix.double().T
            values = torch.linalg.eigvalsh(wide @ wide.T)
            worst = max(worst, sqrt(ours / float(values[:-rank].sum())))
    return worst
