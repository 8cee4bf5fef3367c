"""Latents and texts on disk, by what they were made of: a killed run leaves whole files or none, and nothing is made twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..networks.writer import save

Tensors = Mapping[str, Tensor]


class Cache:
    """A folder of tensors; what cannot be read is made again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, *what: object) -> Path:
        """Return the file for what a thing is made of."""
        name = hashlib.blake2b("\0".join(map(str, what)).encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, path: Path) -> dict[str, Tensor] | None:
        """Return what is kept; None where there is nothing, or nothing whole."""
        try:
            found: dict[str, Tensor] = load_file(str(path))
        except (OSError, SafetensorError):
            return None
        return found

    def put(self, path: Path, tensors: Tensors) -> None:
        """Keep tensors."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, tensors)

    def made(self, path: Path, make: Callable[[], Tensors]) -> Tensors:
        """Return what is kept, or make and keep it."""
        found = self.get(path)
        if found is None:
            found = dict(make())
            self.put(path, found)
        return found


def module_digest(*modules: nn.Module) -> str:
    """Return a hash of all weights: what a cached result was computed with."""
    digest = hashlib.blake2b(digest_size=16)
    for module in modules:
        for name, tensor in module.state_dict().items():
            plain = tensor.detach().to("cpu").contiguous()
            digest.update(f"{name}{plain.dtype}{tuple(plain.shape)}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
