"""ΔW = α/(r₀ + 1e-5) · B · diag(E) · A: a LoRA with a trained weight for each rank, of which training drops the least important.

AdaLoRA (arXiv 2303.10512) by PEFT, on linear layers and convolutions. r₀ is the rank that training began with (``init_r``),
whatever is left of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..records import dataclass
from .base import Factors, Scaled, expect, flat, precise, stored
from .config import Config
from .factored import Factored

EPSILON = 1e-5  # PEFT's, against a division by 0


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaLoRA(Factored, Scaled):
    """Three factors like a singular value decomposition's."""

    name: ClassVar[str] = "adalora"
    additive: ClassVar[bool] = True
    one_of_each_term: ClassVar[tuple[str, ...]] = ("diagonal",)

    up: Tensor = stored("lora_up.weight", axes=(2, 5))  # (out, r); PEFT's lora_B
    down: Tensor = stored("lora_down.weight", axes=(2, 5))  # (r, in·k); PEFT's lora_A
    diagonal: Tensor = stored("lora_E")  # (r, 1)

    @classmethod
    def from_config(cls, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the scale: α over the rank that training began with."""
        began = config.integer("init_r", 12)
        alpha = config.number("lora_alpha", 8)
        return {"fixed_scale": (alpha if alpha > 0 else began) / (began + EPSILON)}

    @property
    def rank(self) -> int:
        """The rows of A."""
        return self.down.shape[0]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why the factors do not multiply to this shape."""
        up, down = flat(self.up).shape, flat(self.down).shape
        if not up[1] == self.diagonal.numel() == down[0]:
            return f"lora_B {tuple(up)}, lora_E {tuple(self.diagonal.shape)} and lora_A {tuple(down)} have different ranks"
        return expect(f"lora_B {tuple(up)} x lora_A {tuple(down)}", (up[0], down[1]), shape)

    def factors(self, weight: Tensor) -> Factors:
        """Return B · diag(E), scaled, and A."""
        up = precise(flat(self.up), weight) * precise(self.diagonal, weight).flatten()
        return up * self.scale, precise(flat(self.down), weight)
