"""ΔW = (α/r) · (up · down + sparse); with a Tucker core: ΔW[o,i,k] = (α/r) · Σ_pq core[p,q,k] · up[o,p] · down[q,i].

LoRA (arXiv 2106.09685) as kohya's sd-scripts (LierLa: linear and 1x1 layers; C3Lier: 3x3 too), LyCORIS (LoCon, DyLoRA:
arXiv 2210.07558), diffusers, PEFT and OneTrainer write it. LoRA-FA, LoRA+ and rsLoRA differ in training only: rsLoRA's √r
is inside the saved alpha, or in PEFT's config. "NestedUNet", which a Japanese wiki lists as a C3Lier variant, is read as
this by its keys: no public file or loader of it is known.

DyLoRA is read with α/r over all its ranks, as every loader does; LyCORIS' own forward multiplies by block_size · α/r.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from ..records import dataclass
from .activation import Bypass, Cost, Layer, dense, low_rank
from .base import Algorithm, Factors, Scaled, columns, expect, flat, precise, stored
from .factored import energy_of, flattened, shaped
from .products import add_product, tucker


@dataclass(frozen=True, eq=False, kw_only=True)
class LoRA(Scaled):
    """Two factors, a Tucker core between them if there is one, and the sparse rest that LyCORIS' extraction keeps."""

    name: ClassVar[str] = "lora"
    additive: ClassVar[bool] = True
    adds_directly: ClassVar[bool] = True
    one_of_each_term: ClassVar[tuple[str, ...]] = ("up", "sparse_values")

    up: Tensor = stored("lora_up.weight", axes=(2, 5))  # (out, r) or (out, r, 1, 1)
    down: Tensor = stored("lora_down.weight", axes=(2, 5))  # (r, in, *k), (r, in·k); (r, in, 1, 1) with a core
    core: Tensor | None = stored("lora_mid.weight", optional=True, axes=(2, 5))  # (r, r, *k): first axis to up, second to down
    sparse_indices: Tensor | None = stored(
        "bias_indices", optional=True, axes=(2, 2), whole=True
    )  # (2, nonzeros), into flat(W); "bias" by mistake
    sparse_values: Tensor | None = stored("bias_values", optional=True, axes=(1, 1))  # (nonzeros,)
    sparse_size: Tensor | None = stored("bias_size", optional=True, whole=True)  # (out, in·k)

    @property
    def rank(self) -> int:
        """The rows of down."""
        return self.down.shape[0]

    @property
    def is_zero(self) -> bool:
        """Tell whether a factor is all zero and nothing sparse is added."""
        return self.sparse_values is None and not all(bool(t.float().any()) for t in (self.up, self.down))

    @property
    def is_lora(self) -> bool:
        """Tell whether nothing sparse is added."""
        return self.sparse_values is None

    @property
    def truncates(self) -> bool:
        """Tell whether there are but two factors."""
        return self.core is None and self.sparse_values is None

    def truncated(self, ranks: int) -> Algorithm:
        """Return this with the first ranks only (DyLoRA's ``dyn``), the scale still α over all of them."""
        if self.core is not None or not 0 < ranks < self.rank:
            return self
        return replace(self, up=self.up[:, :ranks], down=self.down[:ranks], fixed_scale=self.scale)

    def rows(self, its: slice | Tensor) -> Algorithm | None:
        """Return the rows of up with all of down."""
        return replace(self, up=self.up[its]) if self.sparse_values is None else None

    def check_shape(self, shape: Sequence[int]) -> str | None:
        """Say why the factors do not multiply to this shape."""
        if problem := self._sparse_problem(shape):
            return problem
        up, down, core = flat(self.up).shape, flat(self.down).shape, self.core
        if core is None:
            if up[1] != down[0]:
                return f"lora_up {tuple(self.up.shape)} and lora_down {tuple(self.down.shape)} have different ranks"
            return expect(f"lora_up {tuple(self.up.shape)} x lora_down {tuple(self.down.shape)}", (up[0], down[1]), shape)
        if core.shape[:2] != (up[1], down[0]):
            return f"lora_mid {tuple(core.shape)} does not stand between lora_up {tuple(up)} and lora_down {tuple(down)}"
        return expect("lora_up x lora_mid x lora_down", (up[0], down[1], *core.shape[2:]), shape)

    def _sparse_problem(self, shape: Sequence[int]) -> str | None:
        """Say why the sparse rest, which three tensors make together, does not lie inside the weight."""
        indices, values = self.sparse_indices, self.sparse_values
        if indices is None and values is None:
            return None if self.sparse_size is None else "bias_size stands without bias_indices and bias_values"
        if indices is None or values is None or tuple(indices.shape) != (2, len(values)) or len(shape) < 2:
            return "bias_indices and bias_values do not belong together"
        limits = torch.tensor([shape[0], columns(shape)])[:, None]
        inside = ((indices >= 0) & (indices < limits)).all()
        return None if bool(inside) else f"bias_indices points outside of the layer {tuple(shape)}"

    def factors(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return up (out, r) with the scale in it, down (r, in·k) and the core, in the precision of deltas."""
        core = None if self.core is None else precise(self.core, weight)
        return precise(flat(self.up), weight) * self.scale, precise(flat(self.down), weight), core

    def delta(self, weight: Tensor) -> Tensor:
        """Return up · (core) · down, and the sparse rest."""
        up, down, core = self.factors(weight)
        product = up @ down if core is None else tucker(core, up, down)
        product = product.reshape(weight.shape)
        return product if self.sparse_values is None else product.add_(self.sparse(weight).reshape(weight.shape))

    def low_rank(self, shape: Sequence[int], weight: Tensor | None = None) -> Factors | None:
        """Return the factors, with one rank more for every row in which something is stored sparse; None where those are many."""
        up, down = flattened(*self.factors(shaped(shape, torch.float32)))
        if self.sparse_indices is None:
            return up, down
        rows = self.sparse_indices[0].long().unique()
        if 2 * (len(rows) + down.shape[0]) > min(up.shape[0], down.shape[1]):
            return None
        places = torch.zeros(len(up), len(rows)).index_put_((rows, torch.arange(len(rows))), torch.tensor(1.0))
        return torch.cat((up, places), 1), torch.cat((down, self._sparse_rows(rows, down.shape[1])))

    def _sparse_rows(self, rows: Tensor, width: int) -> Tensor:
        """Return these rows, in rising order, of the sparse rest (n, in·k), scaled."""
        assert self.sparse_indices is not None and self.sparse_values is not None
        its, cols = self.sparse_indices.long()
        return torch.zeros(len(rows), width).index_put_((torch.searchsorted(rows, its), cols), self.sparse_values.float() * self.scale)

    def energy(self, shape: Sequence[int]) -> float | None:
        """Return ‖ΔW‖² from the factors' Gram matrices."""
        pair = self.low_rank(shape) if self.rank <= min(shape[:2]) else None
        return None if pair is None else energy_of(*pair)

    def sparse(self, weight: Tensor) -> Tensor:
        """Return the sparse rest as a dense matrix (out, in·k), scaled."""
        assert self.sparse_indices is not None and self.sparse_values is not None
        rows, cols = self.sparse_indices.to(device=weight.device, dtype=torch.int64)
        full = torch.zeros(weight.shape[0], columns(weight.shape), device=weight.device)
        return full.index_put_((rows, cols), precise(self.sparse_values, weight).to(full.dtype) * self.scale)

    def bypass(self, layer: Layer) -> Bypass:
        """Return two thin products; what is stored sparse over the full size is a full-size one."""
        act = low_rank(layer, flat(self.up), flat(self.down), self.core, self.scale)
        if self.sparse_values is None:
            return act
        rest = dense(layer, self.sparse(layer.weight))
        return Bypass(lambda x, y: act(x, y) + rest(x, y))

    def add_delta(self, out: Tensor, base: Tensor, weight: Tensor, strength: float) -> None:
        """Write base + s · ΔW into out, without ΔW in between."""
        up, down, core = self.factors(weight)
        if core is not None:
            down = torch.einsum("pq...,qi->pi...", core, down).flatten(1)
        add_product(out, base, up, down, strength)
        if self.sparse_values is not None:
            out.add_(self.sparse(weight).reshape(out.shape), alpha=strength)

    def cost(self, shape: Sequence[int]) -> Cost:
        """Return the cost of two thin products, or of one that is added to the weight."""
        size = float(prod(shape))
        if self.sparse_values is not None:
            return super().cost(shape)
        return Cost(self.rank * (shape[0] + columns(shape)), 2.0 * shape[0], self.rank * size, 2.0 * size)
