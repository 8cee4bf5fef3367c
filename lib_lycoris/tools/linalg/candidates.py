"""ΔW of one module -> the tensors of a chosen algorithm, with the energy that they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from math import prod

import torch
from torch import Tensor

from ...algorithms import parse
from ...algorithms.base import flat
from ...errors import ToolError
from ...records import dataclass
from ..files.networks.naming import lora
from .factorise import divisor, loha, nearest_kronecker, rotation, scaling
from .low_rank import Svd, energy, randomized_svd, residual
from .ranks import Rule, truncated_svd

ALGORITHMS = ("lora", "locon", "loha", "lokr", "full", "oft", "ia3", "auto")
READS_WEIGHT = ("oft", "ia3", "auto")
EQUAL = 1e-3  # of a module's energy: errors no further apart count as the same, and the smaller file wins
FEWEST = 8  # rows of an OFT block below which it says too little


@dataclass(frozen=True)
class Wanted:
    """What a module is to become."""

    algorithm: str
    rule: Rule
    factor: int = -1  # of LoKr
    lokr_rank: int | None = None  # of LoKr's second factor; None: whole
    block: int = 32  # rows of an OFT block


@dataclass(frozen=True, eq=False)
class Made:
    """A module's tensors by suffix, what they leave of its energy, and what they are called in the report."""

    tensors: dict[str, Tensor] = field(repr=False)
    left: float
    algorithm: str
    rank: int | None = None
    spectrum: Tensor | None = None  # leading singular values, where they were computed

    @property
    def numbers(self) -> int:
        """How many numbers are stored."""
        return sum(t.numel() for t in self.tensors.values())


def numbers_of(wanted: Wanted, shape: Sequence[int]) -> int:
    """Return how many numbers a module of this shape takes, at the largest rank that its rule allows; of ``auto`` and IA3 the most."""
    rows, columns = shape[0], prod(shape[1:])
    rank = min(wanted.rule.largest or rows, rows, columns)
    if wanted.algorithm == "full":
        return rows * columns
    if wanted.algorithm == "ia3":
        return max(rows, shape[1]) + 1
    if wanted.algorithm == "oft":
        size = next(d for d in range(min(wanted.block, rows), 0, -1) if rows % d == 0)
        return rows * size + 1
    if wanted.algorithm == "lokr":
        o1, i1 = divisor(rows, wanted.factor), divisor(shape[1], wanted.factor)
        o2, i2 = rows // o1, columns // i1
        whole = wanted.lokr_rank is None or wanted.lokr_rank >= min(o2, i2)
        return o1 * i1 + (o2 * i2 if whole else wanted.lokr_rank * (o2 + i2) + 1)  # type: ignore[operator]
    return rank * (rows + columns) * (2 if wanted.algorithm == "loha" else 1) + 1


def make(wanted: Wanted, style: str, delta: Tensor, total: float, weight: Tensor | None) -> Made:
    """Return a module's tensors; delta, weight: (out, in, *k); total: the energy of delta."""
    if wanted.algorithm == "auto":
        return _best(wanted, style, delta, total, weight)
    makers: dict[str, Callable[[], Made]] = {
        "lora": lambda: make_lora(wanted.rule, style, delta, total),
        "locon": lambda: make_lora(wanted.rule, style, delta, total),
        "full": lambda: Made({"diff": delta.clone()}, 0.0, "full"),
        "loha": lambda: _judged("loha", loha(delta, _rank(wanted.rule, delta, total)), delta, None),
        "lokr": lambda: _judged("lokr", nearest_kronecker(delta, wanted.factor, wanted.lokr_rank), delta, None),
        "oft": lambda: _judged("oft", rotation(_needed(weight), weight + delta, wanted.block), delta, weight),  # type: ignore[operator]
        "ia3": lambda: _judged("ia3", scaling(_needed(weight), delta), delta, weight),
    }
    if wanted.algorithm not in makers:
        raise ToolError(f'"{wanted.algorithm}" is no algorithm to extract to; there are {", ".join(ALGORITHMS)}')
    return makers[wanted.algorithm]()


def make_lora(rule: Rule, style: str, delta: Tensor, total: float) -> Made:
    """Return LoRA factors of the rank that a rule asks for."""
    matrix = flat(delta)
    svd = truncated_svd(matrix, rule, total)
    return lora_from(svd, style, tuple(delta.shape[2:]), residual(matrix, svd))


def lora_from(svd: Svd, style: str, kernel: tuple[int, ...], left: float) -> Made:
    """Return LoRA tensors of a decomposition."""
    up, down = svd.factors()
    tensors = {key: value.contiguous() for key, value in lora(style, up, down, kernel).items()}
    return Made(tensors, left, "lora", svd.rank, svd.s)


def _rank(rule: Rule, delta: Tensor, total: float) -> int:
    """Return a LoHa's rank: it has two factors for each of a LoRA's, and a product of twice the size."""
    if rule.kind == "fixed":
        return rule.largest or 1
    return max(1, truncated_svd(flat(delta), rule, total).rank // 2)


def _needed(weight: Tensor | None) -> Tensor:
    assert weight is not None
    return weight


def _judged(name: str, tensors: dict[str, Tensor], delta: Tensor, weight: Tensor | None) -> Made:
    """Measure what an algorithm leaves by the same delta that a loader computes."""
    algorithm = parse(tensors)[0]["weight"]
    base = weight if weight is not None else torch.zeros(1).expand(delta.shape)
    return Made(tensors, energy(algorithm.delta(base) - delta), name, algorithm.rank)


def _best(wanted: Wanted, style: str, delta: Tensor, total: float, weight: Tensor | None) -> Made:
    """Return what leaves least of those that take no more room than the LoRA; of equals, the smallest."""
    first = make_lora(wanted.rule, style, delta, total)
    room = first.numbers
    found = [first]
    if delta.numel() <= room:
        found.append(Made({"diff": delta.clone()}, 0.0, "full"))
    found.append(_judged("lokr", nearest_kronecker(delta, wanted.factor), delta, None))
    if weight is not None:
        found.append(_judged("ia3", scaling(weight, delta), delta, weight))
        block = min(wanted.block, room // delta.shape[0])
        if block >= FEWEST:
            found.append(_judged("oft", rotation(weight, weight + delta, block), delta, weight))
    fitting = [made for made in found if made.numbers <= room]
    least = min(made.left for made in fitting)
    return min((m for m in fitting if m.left <= least + EQUAL * total), key=lambda made: made.numbers)


def leading_values(delta: Tensor, rank: int, total: float) -> Tensor:
    """Return the first singular values alone."""
    return randomized_svd(flat(delta), rank, total).s.clone()
