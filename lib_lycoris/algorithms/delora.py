"""ΔW = (B ⊙ λ / (r · ‖A_i‖ · ‖B_i‖)) · A ⊙ n: a LoRA whose norm is bounded by λ, n the norms of W's columns when training began.

DeLoRA (arXiv 2503.18225) by PEFT, on linear layers; n is in the file. Norms are taken to be at least 1e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ..records import dataclass
from .base import Factors, only_linear, precise, stored
from .factored import Factored
from .stored_values import other_layer

SMALLEST = 1e-4  # norm


@dataclass(frozen=True, eq=False, kw_only=True)
class DeLoRA(Factored):
    """Directions, and how far to go along them."""

    name: ClassVar[str] = "delora"
    additive: ClassVar[bool] = True
    one_of_each_term: ClassVar[tuple[str, ...]] = ("boundary",)

    a: Tensor = stored("delora_A", axes=(2, 2))  # (r, in)
    b: Tensor = stored("delora_B", axes=(2, 2))  # (out, r)
    boundary: Tensor = stored("delora_lambda", axes=(0, 1))  # (1,)
    norms: Tensor = stored("delora_w_norm", axes=(1, 1))  # (in,)

    @property
    def rank(self) -> int:
        """The rows of A."""
        return self.a.shape[0]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why the factors do not multiply to this shape."""
        if problem := only_linear(self.name, shape):
            return problem
        factors = self.b.shape == (shape[0], self.rank) and self.a.shape[1] == shape[1] == self.norms.numel()
        if factors and self.boundary.numel() == 1:
            return None
        return other_layer(self.tensors(), shape)

    def factors(self, weight: Tensor) -> Factors:
        """Return B and A with their norms taken out and λ and n put in."""
        a, b = precise(self.a, weight), precise(self.b, weight)
        norms = a.norm(dim=1).clamp_min(SMALLEST) * b.norm(dim=0).clamp_min(SMALLEST)
        return b * (precise(self.boundary, weight).reshape(()) / self.rank / norms), a * precise(self.norms, weight)
