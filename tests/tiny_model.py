"""A small model with SD1's names that runs every kind of layer which can be changed, and networks for it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from lib_lycoris import Network, Patcher, load
from lib_lycoris.networks.writer import save
from lib_lycoris.patching import Mode
from tests.corpus_loader import put
from tests.samples import LAYERS, builders, kohya_name, metadata

MODES = get_args(Mode)  # every way to apply networks


class TinyModel(nn.Module):
    """All layers of samples.LAYERS, each on an input made of the others' outputs, so that a change anywhere shows at the end."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        for kind, (name, shape) in LAYERS.items():
            put(self, name, layer(kind, shape))

    def named(self, kind: str) -> nn.Module:
        """Return a layer by its kind in samples.LAYERS."""
        return self.get_submodule(LAYERS[kind][0])

    def forward(self, x: Tensor) -> Tensor:
        """Return a vector for x (batch, 8, 8, 8)."""
        image = self.named("group")(self.named("convolution")(x) + self.named("point")(x))
        words = image.flatten(2).transpose(1, 2)  # (batch, 64, 16)
        text = self.named("text")(self.named("norm")(words))  # (batch, 64, 24)
        mixed = self.named("linear")(text)
        small = self.named("strided")(image).flatten(2).transpose(1, 2)  # (batch, 16, 24)
        wide = torch.cat((mixed[:, :16], words[:, :16]), -1)
        return torch.cat((self.named("biased")(wide).tanh().mean(1), small.tanh().mean(1)), -1)


def layer(kind: str, shape: tuple[int, ...]) -> nn.Module:
    """Return a random torch layer of one of samples.LAYERS' kinds."""
    if kind == "norm":
        return nn.LayerNorm(shape[0])
    if kind == "group":
        return nn.GroupNorm(4, shape[0])
    if len(shape) == 4:
        return nn.Conv2d(shape[1], shape[0], shape[2], stride=2 if kind == "strided" else 1, padding=shape[2] // 2)
    return nn.Linear(shape[1], shape[0], bias=kind != "linear")


def write_network(path: Path, algorithm: str, seed: int, size: float = 1.0) -> Path:
    """Write a network of one algorithm over every layer that it can change, kohya's names."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for kind, (name, shape) in LAYERS.items():
        if algorithm in builders(kind):
            made = builders(kind)[algorithm](generator, shape)
            tensors.update({f"{kohya_name(name)}.{suffix}": tensor for suffix, tensor in made.items()})
    save(
        path,
        {key: tensor * size if "alpha" not in key and tensor.is_floating_point() else tensor for key, tensor in tensors.items()},
        metadata(algorithm),
    )
    return path


def networks(folder: Path, patcher: Patcher, names: list[str]) -> dict[str, Network]:
    """Write and load one network an algorithm."""
    return {name: load(write_network(folder / f"{name}.safetensors", name, seed), patcher.base) for seed, name in enumerate(names)}
