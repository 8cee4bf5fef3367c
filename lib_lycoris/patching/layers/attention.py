"""The changed form of nn.MultiheadAttention, which reads its projections' parameters itself and never calls a layer for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...algorithms import Bypass
from ..cost import Way
from ..edit import Edit
from ..live.attention import Project, attend, bind_arguments
from ..live.layer_access import LiveParameter
from ..workspace import Workspace
from .calls import Add, Run
from .layer import PatchedLayer, PatchedLinear, Prepared


class PatchedAttention(PatchedLayer):
    """in_proj_weight's q, k and v rows, in_proj_bias, and out_proj's parameters (as out_proj.weight)."""

    main = "in_proj_weight"

    def __init__(self, module: nn.Module, edits: dict[str, list[Edit]], workspace: Workspace) -> None:
        super().__init__(module, edits, workspace)
        out = {k.removeprefix("out_proj."): v for k, v in edits.items() if k.startswith("out_proj.")}
        self.out = PatchedLinear(module.out_proj, out, workspace)  # type: ignore[arg-type]

    def way(self, *args: Any, **kwargs: Any) -> Way:
        """Return how the changes are applied: of itself functional, an attention is only met with the few tokens of a prompt."""
        return "functional" if self.workspace.mode == "auto" else self.workspace.mode

    def live(self, leaf: str) -> LiveParameter:
        """Return one of its parameters, or of out_proj's."""
        if leaf.startswith("out_proj."):
            return LiveParameter(self.module.out_proj, leaf.removeprefix("out_proj."), self.access)  # type: ignore[arg-type]
        return super().live(leaf)

    def prepare_bypass(self, inner: Run, *args: Any, **kwargs: Any) -> Prepared:
        """Prepare the attention over changed projections."""
        project, reads = self._projections(args[0] if args else kwargs["query"])

        def run(inner: Run, *args: Any, **kwargs: Any) -> Any:
            return attend(self.module, project, **bind_arguments(args, kwargs))  # type: ignore[arg-type]

        return run, reads

    def project(self, name: str, x: Tensor) -> Tensor:
        """Return a projection of an input: "q", "k", "v" or "out"."""
        return self._projections(x)[0](name, x)

    def _projections(self, x: Tensor) -> tuple[Project, list[LiveParameter]]:
        """Prepare the changed projections for inputs of this dtype and device."""
        edits = self.edits.get("in_proj_weight", ())
        now = [(edit, strength) for edit in edits if (strength := edit.now(self.workspace.progress))]
        acts = [(edit, edit.bypass(x.device, self.compute_dtype(x), None), strength) for edit, strength in now]
        shift, reads = self.prepare_shift("in_proj_bias", x)
        add, out_reads = self.out.prepare_adding(x, (-1,))
        out_shift, out_shift_reads = self.out.prepare_shift("bias", x)
        reads = [*reads, *out_reads, *out_shift_reads, *(parameter for edit, _ in now for parameter in edit.binds)]
        return lambda name, x: self._out(add, out_shift, x) if name == "out" else self._in(name, acts, shift, x), reads

    def _out(self, add: Add, shift: Tensor | None, x: Tensor) -> Tensor:
        own: Any = self.module.out_proj
        bias = None if own.bias is None else own.bias.to(x.dtype)
        y = add(x, F.linear(x, own.weight.to(x.dtype), bias))
        return y if shift is None else y + shift.to(y.dtype)

    def _in(self, name: str, acts: Sequence[tuple[Edit, Bypass, float]], shift: Tensor | None, x: Tensor) -> Tensor:
        m: Any = self.module
        dtype = self.compute_dtype(x)
        width: int = m.embed_dim
        rows = slice("qkv".index(name) * width, ("qkv".index(name) + 1) * width)
        plain = F.linear(x, m.in_proj_weight[rows].to(dtype))
        y = plain if m.in_proj_bias is None else plain + m.in_proj_bias[rows].to(dtype)
        for edit, act, strength in acts:
            y = _added(edit, act, strength, rows, x, plain, y)
        return y if shift is None else y + shift[rows].to(y.dtype)


def _added(edit: Edit, act: Bypass, strength: float, rows: slice, x: Tensor, plain: Tensor, y: Tensor) -> Tensor:
    """Return one projection with what an edit of some rows of in_proj_weight changes in it; plain: it without the bias."""
    for mine, its in edit.pieces:
        first, last = max(mine.start, rows.start), min(mine.stop, rows.stop)
        if first >= last:
            continue
        same = len(edit.pieces) == 1 and (mine.start, mine.stop) == (rows.start, rows.stop)
        delta = act(x, plain if same else F.linear(x, edit.weight().to(plain.dtype)))
        part = delta.narrow(-1, its.start + first - mine.start, last - first)
        y = y.clone()
        y.narrow(-1, first - rows.start, last - first).add_(part.to(y.dtype), alpha=strength)
    return y
