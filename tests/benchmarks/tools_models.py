"""The base model and the one tuned from it that the tools' benchmark works on: weights of the full size in fp16, of random numbers.

Their difference is a part of rank 64 that decays, plus white noise.
"""

from __future__ import annotations

from math import prod, sqrt
from pathlib import Path

import torch
from torch import Tensor

from lib_lycoris.models import reference
from lib_lycoris.tools.files.networks.growing import GrowingFile

PREFIXES = {
    "sd1": {"diffusion_model.": "model.diffusion_model.", "transformer.": "cond_stage_model.transformer."},
    "sdxl": {"diffusion_model.": "model.diffusion_model.", "0.": "conditioner.embedders.0.", "1.": "conditioner.embedders.1."},
}
RANK, DECAY, NOISE, SCALE = 64, 0.93, 0.055, 1e-3


def difference(rows: int, columns: int, noise: float = NOISE, signal: bool = True) -> Tensor:
    """Return a decaying part of rank 64 whose first singular value is about 1, plus noise whose largest one is about ``noise``."""
    made = torch.randn(rows, columns) * (noise / (sqrt(rows) + sqrt(columns)))
    if signal:
        rank = min(RANK, rows, columns)
        left, right = torch.randn(rows, rank) / sqrt(rows), torch.randn(rank, columns) / sqrt(columns)
        made += (left * DECAY ** torch.arange(rank)) @ right
    return made


def make_models(family: str, folder: Path) -> tuple[Path, Path]:
    """Write a base model and one tuned from it; return their paths."""
    paths = folder / f"{family}-base.safetensors", folder / f"{family}-tuned.safetensors"
    if all(path.exists() for path in paths):
        return paths
    layers = reference(family).layers
    with GrowingFile(paths[0], 2 * len(layers), 160, {}) as base, GrowingFile(paths[1], 2 * len(layers), 160, {}) as tuned:
        for module, info in layers.items():
            name = next((new + module[len(old) :] for old, new in PREFIXES[family].items() if module.startswith(old)), module)
            weight = (torch.randn(info.shape) * 0.02).half()
            change = torch.zeros(info.shape)
            if info.kind in ("Linear", "Conv2d", "MultiheadAttention"):
                size = SCALE * (prod(info.shape)) ** 0.25
                change = difference(info.shape[0], prod(info.shape[1:])).reshape(info.shape) * size
            leaf = {"MultiheadAttention": "in_proj_weight"}.get(info.kind, "weight")
            bare = info.kind == "Parameter"
            pair = {leaf: weight}, {leaf: (weight.float() + change).half()}
            for file, tensors in zip((base, tuned), pair, strict=True):
                file.add(name.rpartition(".")[0] if bare else name, {name.rpartition(".")[2]: tensors[leaf]} if bare else tensors)
            if info.bias:
                bias = (torch.randn(info.shape[0]) * 0.02).half()
                kind = "in_proj_bias" if leaf == "in_proj_weight" else "bias"
                base.add(name, {kind: bias})
                tuned.add(name, {kind: (bias.float() + torch.randn(info.shape[0]) * SCALE).half()})
        base.finish({})
        tuned.finish({})
    return paths
