"""Embeddings that come with the networks of a merge."""

from __future__ import annotations

from ..files.networks.growing import GrowingFile
from .networks_options import NetworksMergeOptions


def embedding_numbers(request: NetworksMergeOptions) -> int:
    """Return how many numbers they hold."""
    return sum(t.numel() for n in request.networks for parts in n.embeddings.values() for t in parts.values())


def add_embeddings(request: NetworksMergeOptions, file: GrowingFile) -> None:
    """Carry embeddings over: the first network's where two have one of the same name."""
    taken: set[str] = set()
    for network in request.networks:
        for name, parts in network.embeddings.items():
            if name not in taken:
                taken.add(name)
                file.add(f"bundle_emb.{name}", {part: tensor.to(request.dtype) for part, tensor in parts.items()})
