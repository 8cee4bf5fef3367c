"""W' = W - P·relu(P)ᵀ·W + P·R: a subspace of W's outputs is taken away and another put in its place.

DEFT and, without R, PaRa by PEFT, on linear layers. With the method ``qr`` the Q of P = QR stands for both P and relu(P). R is scaled by
α/r where the config has ``alpha``; what is taken away is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import NetworkFormatError, readable
from ..records import dataclass
from .base import Factors, exact, flat, only_linear, precise, stored
from .config import Config
from .factored import Factored
from .stored_values import other_layer

METHODS = ("relu", "qr")


@dataclass(frozen=True, eq=False, kw_only=True)
class DEFT(Factored):
    """Where in the outputs, and what is put there."""

    name: ClassVar[str] = "deft"
    binds_weight: ClassVar[bool] = True

    directions: Tensor = stored("deft_P", axes=(2, 2))  # (out, r)
    injected: Tensor | None = stored("deft_R", optional=True, axes=(2, 2))  # (r, in)
    method: str = "relu"
    alpha: float | None = None  # over r, of what is put in

    @classmethod
    def from_config(cls, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the method and the scale. Raises NetworkFormatError for a method of another name."""
        method = config.text("decomposition_method", "relu")
        if method not in METHODS:
            raise NetworkFormatError(f"adapter_config.json says decomposition_method = {readable(method, 40)}, but relu or qr is expected")
        return {"method": method, "alpha": config.number("alpha", 0) or None}

    @property
    def rank(self) -> int:
        """The number of directions."""
        return self.directions.shape[1]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the layer has another number of outputs or inputs."""
        if problem := only_linear(self.name, shape):
            return problem
        rest = self.injected
        if self.directions.shape[0] == shape[0] and (rest is None or tuple(rest.shape) == (self.rank, shape[1])):
            return None
        return other_layer(self.tensors(), shape)

    def factors(self, weight: Tensor) -> Factors:
        """Return P and R - relu(P)ᵀ·W."""
        up = exact(self.directions).to(weight.device)
        up, right = (up, up.relu()) if self.method == "relu" else (torch.linalg.qr(up).Q,) * 2
        down = -precise(right.T, weight) @ precise(flat(weight), weight)
        if self.injected is not None:
            down = down + precise(self.injected, weight) * (1.0 if self.alpha is None else self.alpha / self.rank)
        return precise(up, weight), down
