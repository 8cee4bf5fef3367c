"""ΔW = (α/r) · up · down - U_r · diag(S_r) · V_rᵀ: a LoRA whose beginning, W's principal part, the trainer took out of W.

PiSSA (arXiv 2404.02948) by PEFT, ``init_lora_weights="pissa"``; on linear layers. ``pissa_niter_N`` took out an approximation with random
numbers in it, which nobody can repeat: refused, see networks/settings/refused.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .base import Factors, exact, expect, flat, only_linear, stored
from .config import NO_CONFIG, Config
from .displaced import Displaced, principal


@dataclass(frozen=True, eq=False, kw_only=True)
class PiSSA(Displaced):
    """LoRA factors that began as W's largest singular values."""

    name: ClassVar[str] = "pissa"
    init: ClassVar[str] = "pissa"  # in PEFT's config

    up: Tensor = stored("lora_up.weight", axes=(2, 5))  # (out, r)
    down: Tensor = stored("lora_down.weight", axes=(2, 5))  # (r, in)

    @classmethod
    def detects(cls, tensors: Mapping[str, Tensor], config: Config = NO_CONFIG) -> bool:
        """Tell whether the config says so of two factors."""
        return config.text("init_lora_weights").lower() == cls.init and super().detects(tensors, config)

    @property
    def rank(self) -> int:
        """The rows of down."""
        return self.down.shape[0]

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why the factors do not multiply to this shape."""
        up, down = flat(self.up).shape, flat(self.down).shape
        if up[1] != down[0]:
            return f"lora_up {tuple(self.up.shape)} and lora_down {tuple(self.down.shape)} have different ranks"
        return only_linear(self.name, shape) or expect(f"lora_up {tuple(up)} x lora_down {tuple(down)}", (up[0], down[1]), shape)

    def trained(self) -> Factors:
        """Return up and down."""
        return exact(flat(self.up).cpu()) * self.scale, exact(flat(self.down).cpu())

    def beginning(self, weight: Tensor) -> Factors:
        """Return W's principal part of the rank."""
        return principal(weight, self.rank)


@dataclass(frozen=True, eq=False, kw_only=True)
class OLoRA(PiSSA):
    """ΔW = (α/r) · (up · down - Q_r · R_r), W = QR: factors that began orthonormal (OLoRA, arXiv 2406.01775, init "olora")."""

    name: ClassVar[str] = "olora"
    init: ClassVar[str] = "olora"

    def beginning(self, weight: Tensor) -> Factors:
        """Return the first columns of Q and rows of R."""
        q, r = torch.linalg.qr(weight)
        return q[:, : self.rank] * self.scale, r[: self.rank]
