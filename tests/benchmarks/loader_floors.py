"""The least that a change and a step could take: bytes by the memory's bandwidth, operations by the processor's peak, both measured here.

``least_merged``: the changed weights are read and written once, the factors read, and the products are made. ``least_functional``: the
file is read into memory. ``least_step``: what the products on the activations take, which a step has more than one without a network.
Where bytes and operations go on beside each other, the longer of the two counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lib_lycoris import Network, Patcher, load

from .loader_models import Model
from .loader_stages import Stages
from .loader_timing import Result, seconds

COPIED = 1 << 28  # numbers
SIDE = 2048  # of the matrices whose product shows the peak
AGAIN = 5


def results(stages: Stages) -> Iterator[Result]:
    """Yield the machine's bandwidth and peak, and for each kind the least seconds."""
    bandwidth, peak = measured_bandwidth(stages.dtype), measured_peak(stages.dtype)
    yield Result("bandwidth", bandwidth / 1e9, unit="GB/s")
    yield Result("peak", peak / 1e9, unit="GFLOP/s")
    patcher = Patcher(stages.model.parts)
    positions = counted(patcher, stages.model, stages.plan.size)
    for kind in stages.kinds:
        path = stages.file(kind)
        network, size = load(path, patcher.base, patcher.dtype), path.stat().st_size
        weights, rebuilt, added = amounts(network, patcher, positions)
        width = torch.empty(0, dtype=stages.dtype).element_size()
        yield Result(f"least_merged_{kind}", max((2 * weights * width + size) / bandwidth, 2 * rebuilt / peak), unit="s")
        yield Result(f"least_functional_{kind}", 2 * size / bandwidth, unit="s")
        yield Result(f"least_step_{kind}", max(size / bandwidth, 2 * added / peak), unit="s")


def amounts(network: Network, patcher: Patcher, positions: dict[str, int]) -> tuple[int, float, float]:
    """Return the numbers of the changed weights, the multiply-adds that change them, and those that a step has more."""
    weights, rebuilt, added = 0, 0.0, 0.0
    for name, algorithm in network.patches.items():
        piece = patcher.names.pieces(name)[0]
        shape = tuple(patcher.modules[piece.module].get_parameter(piece.leaf).shape)
        work = algorithm.cost(shape)
        weights, rebuilt = weights + torch.Size(shape).numel(), rebuilt + work.rebuild_products
        added += work.products * positions.get(piece.module, 0)
    return weights, rebuilt, added


def counted(patcher: Patcher, model: Model, size: int) -> dict[str, int]:
    """Return module -> the positions of its output in one step; the text encoder has no part in a step."""
    found: dict[str, int] = {}

    def count(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                channels = output.shape[1] if isinstance(module, (nn.Conv1d, nn.Conv2d)) else output.shape[-1]
                found[name] = found.get(name, 0) + output.numel() // channels

        return hook

    hooks = [module.register_forward_hook(count(name)) for name, module in patcher.modules.items()]
    model.step(size)
    for hook in hooks:
        hook.remove()
    return found


def measured_bandwidth(dtype: torch.dtype) -> float:
    """Return the bytes that are read and written in a second where one tensor is copied into another."""
    one, other = torch.zeros(COPIED, dtype=dtype), torch.ones(COPIED, dtype=dtype)
    return 2 * one.numel() * one.element_size() / min(seconds(lambda: one.copy_(other)) for _ in range(AGAIN))


def measured_peak(dtype: torch.dtype) -> float:
    """Return the floating-point operations of a second in a product of square matrices; a multiply-add is two."""
    one, out = torch.randn(SIDE, SIDE, dtype=dtype), torch.empty(SIDE, SIDE, dtype=dtype)
    return 2 * SIDE**3 / min(seconds(lambda: torch.mm(one, one, out=out)) for _ in range(AGAIN))
