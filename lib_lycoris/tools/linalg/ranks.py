"""Spectrum -> rank: the rules by which people say how much of a matrix is kept, and a file size shared out over all of them."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import ToolError
from ...records import dataclass
from ..declaration import RULES
from .low_rank import Svd, gram_svd, randomized_svd

SHARES = ("quantile", "energy", "sv_fro", "sv_cumulative")  # rules whose value is a share that is kept
NEEDS_ALL = ("quantile", "sv_cumulative")  # their sums run over the whole spectrum
START = 16  # ranks computed at first where the rule decides how many are needed


@dataclass(frozen=True)
class Rule:
    """How many ranks to keep of singular values s, which fall.

    fixed: all up to ``largest``; threshold: s > value; ratio: s > s0 · value; sv_ratio: s > s0 / value; quantile and sv_cumulative: the
    first whose sum is value of the sum of all; energy: the first whose squares sum to value of all squares' sum; sv_fro: energy of value².
    """

    kind: str = "fixed"
    value: float = 0.0
    largest: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in RULES:
            raise ToolError(f'"{self.kind}" is no rule for ranks; the rules are {", ".join(RULES)}')
        if self.kind == "fixed" and self.value:
            raise ToolError(f"`value={self.value:g}` is the value of a rule; choose one with `rule`, or leave it out")
        if self.kind in SHARES and not self.value:
            raise ToolError(f"the rule {self.kind} needs the share that is kept: give a `value` above 0, up to 1")
        limit = 1.0 if self.kind in ("ratio", "quantile", "energy", "sv_fro", "sv_cumulative") else float("inf")
        if self.kind != "fixed" and not 0 <= self.value <= limit:
            raise ToolError(f"the rule {self.kind} takes a value from 0 to {limit:g}, but got {self.value:g}")
        if self.kind == "sv_ratio" and self.value < 1:
            raise ToolError(f"the rule sv_ratio takes how many times smaller the last value may be, 1 or more, but got {self.value:g}")

    def choose(self, s: Tensor, total: float) -> int:
        """Return the rank, from 1 (0 where there is nothing) to what there is and ``largest``; total: the energy of all."""
        count = s.numel()
        if not count or float(s[0]) <= 0:
            return 0
        rank = self._wanted(s.double(), total)
        return max(1, min(rank, count, self.largest or count))

    def _wanted(self, s: Tensor, total: float) -> int:
        if self.kind == "threshold":
            return int((s > self.value).sum())
        if self.kind == "ratio":
            return int((s > s[0] * self.value).sum())
        if self.kind == "sv_ratio":
            return int((s > s[0] / self.value).sum())
        if self.kind in ("quantile", "sv_cumulative"):
            return _first(s.cumsum(0), self.value * float(s.sum()))
        if self.kind in ("energy", "sv_fro"):
            share = self.value if self.kind == "energy" else self.value**2
            return _first(s.square().cumsum(0), share * total)
        return s.numel()


def _first(sums: Tensor, target: float) -> int:
    """Return how many are needed for a sum; rounding of the last digits does not ask for one more."""
    return int((sums < target * (1 - 1e-9)).sum()) + 1


def truncated_svd(matrix: Tensor, rule: Rule, total: float) -> Svd:
    """Return as much of a matrix' decomposition as a rule keeps."""
    smallest = min(matrix.shape)
    limit = min(smallest, rule.largest or smallest)
    if rule.kind == "fixed":
        return randomized_svd(matrix, limit, total)
    if rule.kind in NEEDS_ALL:
        whole = gram_svd(matrix)
        return whole.cut(rule.choose(whole.s, whole.total))
    rank = min(limit, START)
    while True:
        svd = randomized_svd(matrix, rank, total)
        wanted = rule.choose(svd.s, svd.total)
        if wanted < rank or rank == limit:
            return svd.cut(wanted)
        rank = min(limit, 2 * rank)


@dataclass(frozen=True)
class Share:
    """One module that takes part in a size budget."""

    s: Tensor  # falling
    bytes_per_rank: int
    fixed_bytes: int = 0  # that the first rank costs besides: alpha, the header's entries


def share_out(modules: Sequence[Share], budget: int) -> list[int]:
    """Return each module's rank: always the next rank with the most energy for its bytes, as long as the budget (bytes) lasts."""
    ranks = [0] * len(modules)
    heap = [(-_gain(module, 0), index) for index, module in enumerate(modules) if module.s.numel()]
    heapq.heapify(heap)
    while heap:
        _, index = heapq.heappop(heap)
        module, rank = modules[index], ranks[index]
        cost = module.bytes_per_rank + (0 if rank else module.fixed_bytes)
        if cost > budget or float(module.s[rank]) <= 0:
            continue  # smaller modules may still fit
        budget, ranks[index] = budget - cost, rank + 1
        if rank + 1 < module.s.numel():
            heapq.heappush(heap, (-_gain(module, rank + 1), index))
    return ranks


def _gain(module: Share, rank: int) -> float:
    return float(module.s[rank]) ** 2 / (module.bytes_per_rank + (0 if rank else module.fixed_bytes))


def effective_rank(s: Tensor) -> float:
    """Return exp of the entropy of s / Σs: how many ranks of equal size would be as spread out."""
    share = s.double() / s.double().sum().clamp_min(torch.finfo(torch.float64).tiny)
    share = share[share > 0]
    return float(torch.exp(-(share * share.log()).sum())) if share.numel() else 0.0
