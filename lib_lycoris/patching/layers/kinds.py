"""Which changed form each kind of layer has."""

from __future__ import annotations

from torch import nn

from ..edit import Edit
from ..workspace import Workspace
from .attention import PatchedAttention
from .layer import PatchedConvolution, PatchedLayer, PatchedLinear, PatchedParent

FORMS: dict[type[nn.Module], type[PatchedLayer]] = {
    nn.MultiheadAttention: PatchedAttention,
    nn.Linear: PatchedLinear,
    nn.Conv1d: PatchedConvolution,
    nn.Conv2d: PatchedConvolution,
    nn.Conv3d: PatchedConvolution,
    nn.Module: PatchedParent,
}


def patched(module: nn.Module, edits: dict[str, list[Edit]], workspace: Workspace) -> PatchedLayer | None:
    """Return the changed form of a layer; None for a kind that cannot be changed."""
    kind = workspace.access.kind(module)
    return None if kind is None else FORMS.get(kind, PatchedLayer)(module, edits, workspace)
