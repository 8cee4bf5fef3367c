"""W' = W · Π(I - 2·uᵢ·uᵢᵀ): a chain of Householder reflections of the flattened input columns, each u of norm 1.

HRA (arXiv 2405.17484) by PEFT, on linear layers and convolutions. With ``apply_GS`` in the config the u are made orthogonal first. The
chain is I - U·T·Uᵀ with T upper triangular, so ΔW = -(W·U·T)·Uᵀ has rank r.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .base import Factors, columns, exact, flat, precise, stored
from .config import Config
from .factored import Factored


@dataclass(frozen=True, eq=False, kw_only=True)
class HRA(Factored):
    """The mirrors' normals."""

    name: ClassVar[str] = "hra"
    binds_weight: ClassVar[bool] = True

    normals: Tensor = stored("hra_u", axes=(2, 2))  # (in·k, r)
    orthogonal: bool = False

    @classmethod
    def from_config(cls, config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return whether the normals are made orthogonal."""
        return {"orthogonal": config.flag("apply_GS")}

    @property
    def rank(self) -> int:
        """The number of reflections."""
        return self.normals.shape[1]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say that the layer has another number of inputs."""
        if len(shape) > 1 and self.normals.shape[0] == columns(shape):
            return None
        return f"hra_u {tuple(self.normals.shape)} mirrors {self.normals.shape[0]} inputs, but the layer is {tuple(shape)}"

    def factors(self, weight: Tensor) -> Factors:
        """Return -W·U·T and Uᵀ."""
        normals = exact(self.normals).to(weight.device)
        if self.orthogonal:
            normals, chain = torch.linalg.qr(normals).Q, 2 * torch.eye(self.rank, dtype=normals.dtype, device=normals.device)
        else:
            normals = normals / normals.norm(dim=0).clamp_min(torch.finfo(normals.dtype).tiny)
            chain = chained(normals.T @ normals)
        return -(precise(flat(weight), weight) @ precise(normals @ chain, weight)), precise(normals.T, weight)


def chained(gram: Tensor) -> Tensor:
    """Return T (r, r) with Π(I - 2·uᵢ·uᵢᵀ) = I - U·T·Uᵀ; gram: UᵀU."""
    chain = torch.zeros_like(gram)
    for i in range(len(gram)):
        chain[:i, i] = -2 * chain[:i, :i] @ gram[:i, i]
        chain[i, i] = 2
    return chain
