"""ΔW = W ⊙ (B · A): a low-rank matrix that multiplies W entry by entry.

HiRA (ICLR 2025) by PEFT, on linear layers and convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Layer, dense
from .base import Algorithm, expect, flat, precise, stored


@dataclass(frozen=True, eq=False, kw_only=True)
class HiRA(Algorithm):
    """Factors of what W is multiplied by."""

    name: ClassVar[str] = "hira"
    binds_weight: ClassVar[bool] = True
    one_of_each_term: ClassVar[tuple[str, ...]] = ("b",)

    a: Tensor = stored("hira_A", axes=(2, 5))  # (r, in, *k)
    b: Tensor = stored("hira_B", axes=(2, 5))  # (out, r[, 1, 1])

    @property
    def rank(self) -> int:
        """The rows of A; ΔW itself may have any rank."""
        return self.a.shape[0]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why the factors do not multiply to this shape."""
        b, a = flat(self.b).shape, flat(self.a).shape
        if b[1] != a[0]:
            return f"hira_B {tuple(self.b.shape)} and hira_A {tuple(self.a.shape)} have different ranks"
        return expect(f"hira_B {tuple(b)} x hira_A {tuple(a)}", (b[0], a[1]), shape)

    def delta(self, weight: Tensor) -> Tensor:
        """Return W times the product."""
        return (precise(flat(self.b), weight) @ precise(flat(self.a), weight)).reshape(weight.shape) * precise(weight, weight)

    def bypass(self, layer: Layer) -> Bypass:
        """Return a second full-size product: entry by entry nothing smaller does."""
        return dense(layer, self.delta(layer.weight))
