"""The ways to change the forward of a live layer: *functional* (y + s · Δy), and with an effective weight beside the base's, kept or not.

One class a kind of layer. Each holds the edits of the layer's parameters, is called in place of the layer's forward with that forward
as ``inner``, and never writes to a parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..algorithms import Convolution, LowRank, Stacked
from .attention import attend, bind_arguments
from .cost import Way
from .edit import Edit
from .effective import Effective, Shift
from .layer_access import COMPUTED_IN, LiveParameter, autocasts
from .workspace import Workspace

Inner = Callable[..., Any]


class PatchedLayer:
    """What all kinds share: the edits by parameter, the choice between the ways, and those with an effective weight.

    A kind that has no form of its own for activations - norms and embeddings, whose parameters are vectors and tables - is merged always.
    """

    main = "weight"  # the parameter whose dtype is the layer's

    def __init__(self, module: nn.Module, edits: dict[str, list[Edit]], workspace: Workspace) -> None:
        self.module, self.workspace, self.access = module, workspace, workspace.access
        self.edits = {leaf: sorted(found, key=lambda edit: edit.order) for leaf, found in edits.items()}
        self.effective = {leaf: Effective(self.live(leaf), found, workspace, slot) for slot, (leaf, found) in enumerate(edits.items())}
        self.shifts = {leaf: Shift(self.live(leaf), found, workspace) for leaf, found in edits.items() if leaf.endswith("bias")}
        self._all = [edit for found in self.edits.values() for edit in found]
        self._ways: dict[int, Way] = {}
        self._stack: tuple[list[LowRank], Stacked] | None = None

    def __call__(self, inner: Inner, *args: Any, **kwargs: Any) -> Any:
        """Return the changed layer's output."""
        if not any(edit.now(self.workspace.progress) for edit in self._all):
            return inner(*args, **kwargs)
        way = self.way(*args, **kwargs)
        if way == "functional":
            return self.forward_functional(inner, *args, **kwargs)
        return self.forward_effective(inner, way == "merged", *args, **kwargs)

    def adopt(self, other: PatchedLayer) -> None:
        """Take over what another changed form of the same layer has computed or has memory for."""
        for leaf, effective in self.effective.items():
            if leaf in other.effective:
                effective.adopt(other.effective[leaf])

    def way(self, *args: Any, **kwargs: Any) -> Way:
        """Return how the changes are applied to this input."""
        return "merged"

    def way_for(self, x: Tensor, positions: int) -> Way:
        """Return how the changes are applied to an input of so many positions."""
        found = self._ways.get(positions)
        if found is None:
            shape, dtype = self.shape, self.effective_dtype("weight", x)
            size = prod(shape) * dtype.itemsize
            works = [edit.algorithm.cost(shape) for edit in self.edits.get("weight", ())]
            kept = "merged" in self._ways.values()  # for an input of another size
            constant = all(isinstance(edit.strength, (int, float)) for edit in self._all)
            found = self.workspace.way(works, positions, size, dtype, x.device, constant, kept) if works else "functional"
            self._ways[positions] = found
        return found

    def forward_functional(self, inner: Inner, *args: Any, **kwargs: Any) -> Any:
        """Return the output plus the changes."""
        return self.forward_effective(inner, True, *args, **kwargs)

    def forward_effective(self, inner: Inner, keep: bool, *args: Any, **kwargs: Any) -> Any:
        """Return what the layer's own forward gives with effective parameters in place of its own."""
        x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        now = [(leaf, found) for leaf, found in self.effective.items() if found.acts]
        values = {leaf: found(x.device, self.effective_dtype(leaf, x), keep or leaf.endswith("bias")) for leaf, found in now}
        return self.call(inner, values, args, kwargs)

    def call(self, inner: Inner, values: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the layer's forward gives with these parameters."""
        return self.access.call(self.module, inner, values, args, kwargs)

    def parameter(self, leaf: str, keep: bool = True) -> Tensor | None:
        """Return the effective parameter at this point of the sampling, in its own dtype; the layer's own where nothing changes it."""
        live, effective = self.live(leaf), self.effective.get(leaf)
        if effective is None or not effective.acts:
            return live.value()
        return effective(live.filled().device, live.dtype, keep or leaf.endswith("bias"))

    def live(self, leaf: str) -> LiveParameter:
        """Return one of the layer's parameters."""
        return LiveParameter(self.module, leaf, self.access)

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return self.live(self.main).shape

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """Return what the layer computes in: its input's dtype, which hosts cast weights to; its weight's under autocast or for indices."""
        if x.is_floating_point() and not autocasts(x.device.type):
            return x.dtype
        return self.live(self.main).dtype

    def effective_dtype(self, leaf: str, x: Tensor) -> torch.dtype:
        """Return the wider of what a parameter is stored in and what is computed in: nothing is rounded that the layer does not round."""
        stored = self.access.stored(self.live(leaf).module, self.live(leaf).leaf)
        dtype = self.compute_dtype(x)
        return dtype if stored is None or stored.dtype not in COMPUTED_IN else torch.promote_types(stored.dtype, dtype)

    def changed(self, x: Tensor, y: Tensor, column: tuple[int, ...], convolution: Convolution | None = None) -> Tensor:
        """Return y with the changes of the weight added, in y's own memory if nothing else needs it; column: the bias's shape beside y."""
        now = [(edit, strength) for edit in self.edits.get("weight", ()) if (strength := edit.now(self.workspace.progress))]
        if not now:
            return y
        reads = [edit for edit, _ in now if edit.algorithm.reads_output]
        recorded = torch.is_grad_enabled() and y.requires_grad
        total = y.clone() if recorded or (reads and len(now) > 1) else y
        bias = self.live("bias").value(y.device) if reads else None
        bias = None if bias is None else bias.to(y.dtype).reshape(column)
        acts = [edit.bypass(x.device, self.compute_dtype(x), convolution) for edit, _ in now]
        thin = [i for i, (edit, _) in enumerate(now) if edit.whole and isinstance(acts[i], LowRank) and acts[i].core is None]  # type: ignore[attr-defined]
        if len(thin) > 1:
            self._stacked([acts[i] for i in thin]).add_to(total, x, [now[i][1] for i in thin])  # type: ignore[misc]
        for i, (edit, strength) in enumerate(now):
            offset = bias if edit.algorithm.reads_output else None
            if edit.whole and (i not in thin or len(thin) == 1):
                acts[i].add_to(total, x, y, offset, strength)
            elif not edit.whole:
                axis = -1 if convolution is None else 1
                delta = acts[i](x, _rows_of(y if offset is None else y - offset, edit, axis))
                _add_rows(total, edit, delta, axis, strength)
        return total

    def _stacked(self, changes: list[LowRank]) -> Stacked:
        """Return low-rank changes as one, made when they are first used together."""
        if self._stack is None or len(self._stack[0]) != len(changes) or any(a is not b for a, b in zip(self._stack[0], changes)):
            self._stack = (changes, Stacked(changes))
        return self._stack[1]

    def shift(self, leaf: str, y: Tensor) -> Tensor | None:
        """Return Σ s · Δbias as a vector; None where no edit changes the bias."""
        found = self.shifts.get(leaf)
        return found(y.device, y.dtype, True) if found is not None and found.acts else None


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

    def way(self, *args: Any, **kwargs: Any) -> Way:
        """Return how the changes are applied to this input."""
        x = args[0] if args else kwargs["input"]
        return self.way_for(x, x.numel() // x.shape[-1])

    def forward_functional(self, inner: Inner, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return y + Σ s · (ΔW·x + Δbias)."""
        y = inner(x, *args, **kwargs)
        out = self.changed(x, y, (-1,))
        shift = self.shift("bias", y)
        return out if shift is None else out + shift


class PatchedConvolution(PatchedLayer):
    """nn.Conv1d, nn.Conv2d and nn.Conv3d."""

    def way(self, *args: Any, **kwargs: Any) -> Way:
        """Return how the changes are applied to this input."""
        x = args[0] if args else kwargs["input"]
        return self.way_for(x, x.numel() // x.shape[1 - len(self.shape)] // prod(self.module.stride))  # type: ignore[arg-type]

    def geometry(self) -> Convolution:
        """Return how the layer walks over its input, as it is set now (the webui's tiling changes it between images)."""
        m: Any = self.module
        return Convolution(m.stride, m.padding, m.dilation, m.groups, m.padding_mode, tuple(m._reversed_padding_repeated_twice))

    def forward_functional(self, inner: Inner, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return y + Σ s · (ΔW∗x + Δbias)."""
        y = inner(x, *args, **kwargs)
        if x.dim() != len(self.shape):  # one image without a batch axis
            return self.forward_functional(lambda t: y[None], x[None])[0]
        column = (-1, *(1,) * (y.dim() - 2))
        out = self.changed(x, y, column, self.geometry())
        shift = self.shift("bias", y)
        return out if shift is None else out + shift.reshape(column)


class PatchedAttention(PatchedLayer):
    """nn.MultiheadAttention: in_proj_weight's q, k and v rows, in_proj_bias, and out_proj's parameters (as out_proj.weight)."""

    main = "in_proj_weight"

    def __init__(self, module: nn.Module, edits: dict[str, list[Edit]], workspace: Workspace) -> None:
        super().__init__(module, edits, workspace)
        out = {k.removeprefix("out_proj."): v for k, v in edits.items() if k.startswith("out_proj.")}
        self.out = PatchedLinear(module.out_proj, out, workspace)  # type: ignore[arg-type]

    def way(self, *args: Any, **kwargs: Any) -> Way:
        """Return how the changes are applied: of itself functional, an attention is only met with the few tokens of a prompt."""
        return "functional" if self.workspace.mode == "auto" else self.workspace.mode

    def live(self, leaf: str) -> LiveParameter:
        """Return one of its parameters, or of out_proj's: the attention reads them itself, their module is never called."""
        if leaf.startswith("out_proj."):
            return LiveParameter(self.module.out_proj, leaf.removeprefix("out_proj."), self.access)  # type: ignore[arg-type]
        return super().live(leaf)

    def call(self, inner: Inner, values: dict[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the attention's forward gives with these parameters, out_proj's among them."""
        out = {leaf.removeprefix("out_proj."): value for leaf, value in values.items() if leaf.startswith("out_proj.")}
        own = {leaf: value for leaf, value in values.items() if not leaf.startswith("out_proj.")}
        changed = partial(self.access.call, self.module, inner, own)
        return self.access.call(self.module.out_proj, lambda *a, **k: changed(a, k), out, args, kwargs)  # type: ignore[arg-type]

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
        strength = edit.now(self.workspace.progress)
        for mine, its in edit.pieces:
            first, last = max(mine.start, rows.start), min(mine.stop, rows.stop)
            if not strength or first >= last:
                continue
            act = edit.bypass(x.device, self.compute_dtype(x), None)
            same = len(edit.pieces) == 1 and (mine.start, mine.stop) == (rows.start, rows.stop)
            delta = act(x, plain if same else F.linear(x, edit.weight().to(plain.dtype)))
            part = delta.narrow(-1, its.start + first - mine.start, last - first)
            y = y.clone()
            y.narrow(-1, first - rows.start, last - first).add_(part.to(y.dtype), alpha=strength)
        return y


FORMS: dict[type[nn.Module], type[PatchedLayer]] = {
    nn.MultiheadAttention: PatchedAttention,
    nn.Linear: PatchedLinear,
    nn.Conv1d: PatchedConvolution,
    nn.Conv2d: PatchedConvolution,
    nn.Conv3d: PatchedConvolution,
}


def patched(module: nn.Module, edits: dict[str, list[Edit]], workspace: Workspace) -> PatchedLayer | None:
    """Return the changed form of a layer; None for a kind that cannot be changed."""
    kind = workspace.access.kind(module)
    return None if kind is None else FORMS.get(kind, PatchedLayer)(module, edits, workspace)
