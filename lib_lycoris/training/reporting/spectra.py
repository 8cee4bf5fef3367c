"""How large and how full of directions the change is: norms by block, effective ranks, and what a smaller dim would lose."""

from __future__ import annotations

from math import exp, log
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ...models import block_of
from ..algorithms.trained_network import TrainedModule, TrainedNetwork

WASTED = 0.25  # of the dim: below it most of the rank does nothing
DEAD = 1e-3  # of the usual norm
SPIKE = 10.0  # times the usual norm
LOST = 0.02  # of the change that a smaller dim may lose before it is no good advice
LARGEST = 2048  # of a side: singular values of larger matrices take too long while training


@torch.no_grad()
def spectra(network: TrainedNetwork, family: str) -> dict[str, Any]:
    """Return norms by block, effective ranks, the curve of size and error, and hints, as plain JSON values."""
    norms: dict[str, float] = {}
    values: list[Tensor] = []
    dims: list[int] = []
    for one in network.entries:
        change = change_of(one)
        if change is None:
            continue
        block = block_of(one.target, family) or "others"
        norms[block] = norms.get(block, 0.0) + float(change.square().sum())
        if min(change.shape) <= LARGEST:
            values.append(torch.linalg.svdvals(change))
            dims.append(int(getattr(one.module, "lora_dim", 0) or min(change.shape)))
    blocks = {block: norm**0.5 for block, norm in sorted(norms.items())}
    ranks = [effective_rank(one) for one in values]
    curve = error_curve(values)
    dim = round(median(dims)) if dims else 0
    advised = smaller_dim(ranks, dim, curve)
    return {
        "family": family, "blocks": blocks, "effective_rank": sum(ranks) / len(ranks) if ranks else 0.0, "curve": curve, "dim": dim,
        "advised": advised, "hints": hints(blocks, dim, curve, advised),
    }  # fmt: skip


def change_of(one: TrainedModule) -> Tensor | None:
    """Return a matrix with the singular values of a layer's change, in float32; None for a norm's.

    Of LoRA's two factors the triangles alone: all layers of a large model as matrices of their own would take minutes.
    """
    from lycoris.modules.locon import LoConModule

    module = one.module
    if isinstance(module, LoConModule) and not module.tucker:
        up, down = (factor.weight.float().flatten(1) for factor in (module.lora_up, module.lora_down))
        thin: Tensor = float(module.scale) * module.scalar * torch.linalg.qr(up).R @ torch.linalg.qr(down.T).R.T
        return thin
    found = module.get_diff_weight()
    change = found[0] if isinstance(found, tuple) else found
    return None if change is None or change.ndim < 2 else change.float().flatten(1)


def effective_rank(values: Tensor) -> float:
    """Return exp of the entropy of the singular values' shares; 0 for no change."""
    total = float(values.sum())
    if not total > 0:
        return 0.0
    shares = [float(value) / total for value in values if float(value) > 1e-12 * total]
    return exp(-sum(share * log(share) for share in shares))


def error_curve(values: list[Tensor]) -> dict[str, float]:
    """Return dim -> what of the whole change a network of that dim would lose."""
    whole = sum(float(one.square().sum()) for one in values)
    longest = max((len(one) for one in values), default=0)
    dims = [2**power for power in range(12) if 2**power <= longest]
    if not whole > 0:
        return {}
    return {str(dim): (sum(float(one[dim:].square().sum()) for one in values) / whole) ** 0.5 for dim in dims}


def smaller_dim(ranks: list[float], dim: int, curve: dict[str, float]) -> int | None:
    """Return a dim of half or less that loses next to nothing, where most of the rank does nothing; else None."""
    found = next((int(rank) for rank, lost in curve.items() if lost <= LOST and 2 * int(rank) <= dim), None)
    return found if ranks and sum(ranks) / len(ranks) < WASTED * dim else None


def hints(blocks: dict[str, float], dim: int, curve: dict[str, float], advised: int | None) -> list[str]:
    """Return sentences on dims that are wasted, blocks that do not learn, and blocks that learn far more than the others."""
    found = []
    usual = median(blocks.values()) if blocks else 0.0
    dead = [block for block, norm in blocks.items() if norm < DEAD * usual]
    spikes = [block for block, norm in blocks.items() if usual > 0 and norm > SPIKE * usual]
    if dead:
        found.append(f"{', '.join(dead)} have hardly changed: leaving them out makes the file smaller")
    if spikes:
        found.append(
            f"{', '.join(spikes)} changed more than {SPIKE:g} times as much as is usual: a smaller rate or scale_weight_norms evens it"
        )
    if advised is not None:
        found.append(f"of {dim} dims {advised} keep all but {curve[str(advised)]:.1%} of the change: `resize --new_rank {advised}`")
    return found
