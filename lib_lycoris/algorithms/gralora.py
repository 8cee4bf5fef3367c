"""ΔW = α/(r + r') · (grid of k x k blocks, block (m, n) = B_m[n]ᵀ · A_n[m]ᵀ, + B' · A'): a LoRA for each block of W.

GraLoRA (arXiv 2505.20355) by PEFT, on linear layers. The r ranks of A_n (in/k, r) and B_m (r, out/k) are cut into k parts: block (m, n) has
part m of A_n and part n of B_m. A' and B' are a LoRA of rank r' over the whole (``hybrid_r``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .base import Factors, Scaled, only_linear, precise, stored
from .config import Config
from .factored import Factored
from .stored_values import Ways


@dataclass(frozen=True, eq=False, kw_only=True)
class GraLoRA(Factored, Scaled):
    """Factors of a grid of blocks."""

    name: ClassVar[str] = "gralora"
    additive: ClassVar[bool] = True
    ways: ClassVar[Ways] = ((frozenset(), frozenset({"gralora_A_general.weight", "gralora_B_general.weight"})),)
    one_of_each_term: ClassVar[tuple[str, ...]] = ("b", "general_b")

    a: Tensor = stored("gralora_A", axes=(3, 3))  # (k, in/k, r)
    b: Tensor = stored("gralora_B", axes=(3, 3))  # (k, r, out/k)
    general_a: Tensor | None = stored("gralora_A_general.weight", optional=True, axes=(2, 2))  # (r', in)
    general_b: Tensor | None = stored("gralora_B_general.weight", optional=True, axes=(2, 2))  # (out, r')

    @classmethod
    def from_config(cls, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return α."""
        return {"alpha": config.number("alpha", 64)}

    @property
    def rank(self) -> int:
        """The ranks of a block row, and those over the whole."""
        return self.a.shape[2] + (0 if self.general_a is None else self.general_a.shape[0])

    def factor_rank(self, shape: Sequence[int]) -> int:
        """Return the ranks of all blocks."""
        return self.a.shape[0] * self.a.shape[2] + self.rank - self.a.shape[2]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the blocks do not tile the layer."""
        if problem := only_linear(self.name, shape):
            return problem
        (count, width, rank), (rows, other, height) = self.a.shape, self.b.shape
        grid = count == rows and rank == other and rank % count == 0 and (count * height, count * width) == (shape[0], shape[1])
        a, b = self.general_a, self.general_b
        both = (a is None) == (b is None)
        if grid and both and (a is None or b is None or ((b.shape[0], a.shape[1]) == (shape[0], shape[1]) and b.shape[1] == a.shape[0])):
            return None
        got = ", ".join(f"{suffix} {tuple(tensor.shape)}" for suffix, tensor in self.tensors().items())
        return f"{got} make no grid of blocks on a layer {tuple(shape)} - is this file for another model?"

    def factors(self, weight: Tensor) -> Factors:
        """Return the blocks' factors, each where its block is and 0 elsewhere, and those over the whole."""
        count, _, rank = self.a.shape
        a = precise(self.a, weight).unflatten(2, (count, rank // count))  # (n, in/k, m, part)
        b = precise(self.b, weight).unflatten(1, (count, rank // count))  # (m, n, part, out/k)
        eye = torch.eye(count, dtype=a.dtype, device=a.device)
        up = torch.einsum("mnpo,mM->Momnp", b, eye).reshape(weight.shape[0], -1)
        down = torch.einsum("nimp,nN->mnpNi", a, eye).reshape(-1, weight.shape[1])
        if self.general_a is not None and self.general_b is not None:
            up, down = torch.cat((up, precise(self.general_b, weight)), 1), torch.cat((down, precise(self.general_a, weight)))
        return up * self.scale, down
