"""Tensors -> file, written beside its place and renamed: a killed run leaves the old file or the new one, never a half."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..atomic import replacing
from .network import Network


def save(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file of ``key -> tensor``."""
    with replacing(Path(path)) as beside:
        beside.touch()  # with the mode that new files have here: safetensors makes its own readable by the owner alone
        mode = beside.stat().st_mode
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, str(beside), dict(metadata or {"format": "pt"}))
        beside.chmod(mode)


def state_dict(network: Network) -> dict[str, Tensor]:
    """Return a network's patches under the file's own module names: reading it again gives the same network."""
    found: dict[str, Tensor] = {}
    for name, algorithm in network.patches.items():
        found.update({f"{network.modules[name]}.{suffix}": tensor for suffix, tensor in algorithm.to_state_dict().items()})
    for name, parts in network.embeddings.items():
        found.update({f"bundle_emb.{name}.{part}": tensor for part, tensor in parts.items()})
    return found
