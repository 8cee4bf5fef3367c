"""The two ways to change the forward of a live layer: *functional* (y + s · Δy) and *merged* (an effective weight beside the base's).

One class a kind of layer. Each holds the edits of the layer's parameters, is called in place of the layer's forward with that forward
as ``inner``, and never writes to a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..algorithms import Convolution
from .activation import Progress
from .attention import attend, bind_arguments
from .base_state import BaseState
from .edit import Edit

Inner = Callable[..., Any]
COMPUTED_IN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Effective:
    """W + Σ s · ΔW of one parameter, summed in float32 and rounded once; kept until the base weight or a strength changes."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = sorted(edits, key=lambda edit: edit.order)
        self._value: nn.Parameter | None = None
        self._state: BaseState | None = None
        self._strengths: tuple[float, ...] = ()

    def __call__(self, base: Tensor | None, progress: Progress, weight: Tensor) -> Tensor | None:
        """Return the effective parameter, and base where every strength is 0; weight: the layer's, whose size a missing bias has."""
        strengths = tuple(edit.now(progress) for edit in self.edits)
        if not any(strengths):
            return base
        read = [getattr(s.module, s.leaf) for edit in self.edits for s in edit.sources]
        seen = [weight if tensor is None else tensor for tensor in (base, *read)]  # a missing bias follows its weight
        if self._value is None or strengths != self._strengths or not (self._state and self._state.holds(*seen)):
            with torch.no_grad():
                self._value = nn.Parameter(self._sum(base, strengths, weight), requires_grad=False)
            self._state, self._strengths = BaseState(*seen), strengths
        return self._value

    def _sum(self, base: Tensor | None, strengths: Sequence[float], weight: Tensor) -> Tensor:
        dtype = weight.dtype if weight.dtype in COMPUTED_IN else torch.float32
        if base is None:
            base = torch.zeros(weight.shape[0], device=weight.device, dtype=dtype)
        total = base.detach().to(torch.float64 if dtype == torch.float64 else torch.float32, copy=True)
        for edit, strength in zip(self.edits, strengths):
            if strength:
                edit.add_delta(total, strength)
        return total.to(base.dtype)


class PatchedLayer:
    """What all kinds share: the edits by parameter, the choice between the two paths, and the merged one.

    A kind that has no form of its own for activations - norms and embeddings, whose parameters are vectors and tables - is merged always.
    """

    def __init__(self, module: nn.Module, edits: dict[str, list[Edit]], progress: Progress, merged: bool) -> None:
        self.module, self.progress, self.merged = module, progress, merged
        self.edits = {leaf: sorted(found, key=lambda edit: edit.order) for leaf, found in edits.items()}
        self.effective = {leaf: Effective(found) for leaf, found in edits.items()}
        self.shifts = {leaf: Effective(found) for leaf, found in edits.items() if leaf.endswith("bias")}

    def __call__(self, inner: Inner, *args: Any, **kwargs: Any) -> Any:
        """Return the changed layer's output."""
        if not any(edit.now(self.progress) for found in self.edits.values() for edit in found):
            return inner(*args, **kwargs)
        return self.forward_merged(inner, *args, **kwargs) if self.merged else self.forward_functional(inner, *args, **kwargs)

    def forward_functional(self, inner: Inner, *args: Any, **kwargs: Any) -> Any:
        """Return the output plus the changes."""
        return self.forward_merged(inner, *args, **kwargs)

    def forward_merged(self, inner: Inner, *args: Any, **kwargs: Any) -> Any:
        """Return what the layer's own forward gives with effective parameters in its table of parameters for that long."""
        tables = [(self.owner(leaf)[0]._parameters, self.owner(leaf)[1], self.parameter(leaf)) for leaf in self.effective]
        base = [table[leaf] for table, leaf, _ in tables]
        try:
            for table, leaf, value in tables:
                table[leaf] = value  # type: ignore[assignment]
            return inner(*args, **kwargs)
        finally:
            for (table, leaf, _), parameter in zip(tables, base):
                table[leaf] = parameter

    def parameter(self, leaf: str) -> Tensor | None:
        """Return the effective parameter at this point of the sampling; the layer's own where nothing changes it."""
        base = getattr(*self.owner(leaf))
        return self.effective[leaf](base, self.progress, self.weight) if leaf in self.effective else base

    def owner(self, leaf: str) -> tuple[nn.Module, str]:
        """Return the module that holds a parameter, and its name there."""
        return self.module, leaf

    @property
    def weight(self) -> Tensor:
        """The layer's weight."""
        return self.module.weight  # type: ignore[return-value]

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """Return what the layer computes in: its weight's dtype, or the input's for weights that are only stored, in fp8."""
        return self.weight.dtype if self.weight.dtype in COMPUTED_IN else x.dtype

    def changed(self, x: Tensor, y: Tensor, plain: Tensor, convolution: Convolution | None = None) -> Tensor:
        """Return y with the changes of the weight added; plain: W·x without the bias; channels last or, convolved, second."""
        axis = -1 if convolution is None else 1
        total: Tensor | None = None
        for edit in self.edits.get("weight", ()):
            if strength := edit.now(self.progress):
                act = edit.change(x.device, self.compute_dtype(x), convolution)
                if edit.whole:
                    delta = act(x, plain).to(y.dtype)
                    total = delta * strength if total is None else total.add(delta, alpha=strength)
                else:
                    total = torch.zeros_like(y) if total is None else total
                    _add_rows(total, edit, act(x, _rows_of(plain, edit, axis)), axis, strength)
        return y if total is None else y + total

    def shift(self, leaf: str, y: Tensor) -> Tensor | None:
        """Return Σ s · Δbias as a vector; None where no edit changes the bias."""
        found = self.shifts[leaf](None, self.progress, self.weight) if leaf in self.shifts else None
        return None if found is None else found.to(y.dtype)

    def without_bias(self, y: Tensor, column: tuple[int, ...]) -> Tensor:
        """Return y without the bias if a change of the weight looks at it; column: the shape that the bias is added in."""
        bias: Any = self.module.bias
        if bias is None or not any(edit.algorithm.reads_output for edit in self.edits.get("weight", ())):
            return y
        return y - bias.to(y.dtype).reshape(column)


def _rows_of(plain: Tensor, edit: Edit, axis: int) -> Tensor:
    """Return the part of the output that the algorithm's rows make."""
    if len(edit.sources) > 1:
        return plain  # computed anew from all sources by the change itself
    length = edit.sources[0].rows.stop - edit.sources[0].rows.start
    ordered = sorted(edit.pieces, key=lambda piece: piece[1].start)
    parts = [plain.narrow(axis, mine.start, mine.stop - mine.start) for mine, _ in ordered]
    return parts[0] if len(parts) == 1 and length else torch.cat(parts, axis)


def _add_rows(total: Tensor, edit: Edit, delta: Tensor, axis: int, strength: float) -> None:
    for mine, its in edit.pieces:
        part = delta.narrow(axis, its.start, its.stop - its.start)
        total.narrow(axis, mine.start, mine.stop - mine.start).add_(part.to(total.dtype), alpha=strength)


class PatchedLinear(PatchedLayer):
    """nn.Linear."""

    def forward_functional(self, inner: Inner, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return y + Σ s · (ΔW·x + Δbias)."""
        y = inner(x, *args, **kwargs)
        out = self.changed(x, y, self.without_bias(y, (-1,)))
        shift = self.shift("bias", y)
        return out if shift is None else out + shift


class PatchedConvolution(PatchedLayer):
    """nn.Conv1d, nn.Conv2d and nn.Conv3d."""

    def geometry(self) -> Convolution:
        """Return how the layer walks over its input, as it is set now (the webui's tiling changes it between pictures)."""
        m: Any = self.module
        return Convolution(m.stride, m.padding, m.dilation, m.groups, m.padding_mode, tuple(m._reversed_padding_repeated_twice))

    def forward_functional(self, inner: Inner, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return y + Σ s · (ΔW∗x + Δbias)."""
        y = inner(x, *args, **kwargs)
        if x.dim() != self.weight.dim():  # one picture without a batch axis
            return self.forward_functional(lambda t: y[None], x[None])[0]
        column = (-1, *(1,) * (y.dim() - 2))
        out = self.changed(x, y, self.without_bias(y, column), self.geometry())
        shift = self.shift("bias", y)
        return out if shift is None else out + shift.reshape(column)


class PatchedAttention(PatchedLayer):
    """nn.MultiheadAttention: in_proj_weight's q, k and v rows, in_proj_bias, and out_proj's parameters (as out_proj.weight)."""

    def __init__(self, module: nn.Module, edits: dict[str, list[Edit]], progress: Progress, merged: bool) -> None:
        super().__init__(module, edits, progress, merged)
        out = {k.removeprefix("out_proj."): v for k, v in edits.items() if k.startswith("out_proj.")}
        self.out = PatchedLinear(module.out_proj, out, progress, merged)  # type: ignore[arg-type]

    def owner(self, leaf: str) -> tuple[nn.Module, str]:
        """Return out_proj for its parameters: the attention reads them itself, their module is never called."""
        if leaf.startswith("out_proj."):
            return self.module.out_proj, leaf.removeprefix("out_proj.")  # type: ignore[return-value]
        return self.module, leaf

    @property
    def weight(self) -> Tensor:
        """The layer's fused weight."""
        return self.module.in_proj_weight  # type: ignore[return-value]

    def forward_functional(self, inner: Inner, *args: Any, **kwargs: Any) -> Any:
        """Return the attention over changed projections."""
        return attend(self.module, self._project, **bind_arguments(args, kwargs))  # type: ignore[arg-type]

    def _project(self, name: str, x: Tensor) -> Tensor:
        m: Any = self.module
        dtype = self.compute_dtype(x)
        if name == "out":
            bias = None if m.out_proj.bias is None else m.out_proj.bias.to(dtype)
            return self.out(lambda t: F.linear(t, m.out_proj.weight.to(dtype), bias), x)
        width: int = m.embed_dim
        rows = slice("qkv".index(name) * width, ("qkv".index(name) + 1) * width)
        plain = F.linear(x, m.in_proj_weight[rows].to(dtype))
        y = plain if m.in_proj_bias is None else plain + m.in_proj_bias[rows].to(dtype)
        for edit in self.edits.get("in_proj_weight", ()):
            y = self._add(edit, rows, x, plain, y)
        shift = self.shift("in_proj_bias", y)
        return y if shift is None else y + shift[rows]

    def _add(self, edit: Edit, rows: slice, x: Tensor, plain: Tensor, y: Tensor) -> Tensor:
        """Add what an edit of some rows of in_proj_weight changes in one projection."""
        strength = edit.now(self.progress)
        for mine, its in edit.pieces:
            first, last = max(mine.start, rows.start), min(mine.stop, rows.stop)
            if not strength or first >= last:
                continue
            act = edit.change(x.device, self.compute_dtype(x), None)
            same = len(edit.pieces) == 1 and (mine.start, mine.stop) == (rows.start, rows.stop)
            delta = act(x, plain if same else F.linear(x, edit.weight().to(plain.dtype)))
            part = delta.narrow(-1, its.start + first - mine.start, last - first)
            y = y.clone()
            y.narrow(-1, first - rows.start, last - first).add_(part.to(y.dtype), alpha=strength)
        return y


def patched(module: nn.Module, edits: dict[str, list[Edit]], progress: Progress, merged: bool) -> PatchedLayer | None:
    """Return the changed form of a layer; None for a kind that cannot be changed."""
    for kinds, form in KINDS:
        if isinstance(module, kinds):
            return form(module, edits, progress, merged)
    return None


KINDS: tuple[tuple[tuple[type[nn.Module], ...], type[PatchedLayer]], ...] = (
    ((nn.MultiheadAttention,), PatchedAttention),
    ((nn.Linear,), PatchedLinear),
    (CONVOLUTIONS, PatchedConvolution),
    ((nn.LayerNorm, nn.GroupNorm, nn.Embedding), PatchedLayer),
)
