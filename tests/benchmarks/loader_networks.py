"""Networks of the sizes that people train, random, over the layers of a live model: files as trainers write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from lib_lycoris.models import BaseModel
from lib_lycoris.networks.hashes import model_hash
from lib_lycoris.networks.reading.reader import open_file
from lib_lycoris.networks.writer import save

Shape = tuple[int, ...]
Build = Callable[[Shape], dict[str, Tensor]]
HASH = "sshs_model_hash"  # which kohya's trainer writes; without it, a webui reads the whole file for its hash at its first use ever
SIZE = 0.02  # of the random factors: the change is felt, and no step overflows


@dataclass(frozen=True)
class Kind:
    """One algorithm at one size: how a layer's tensors are made, and whether it covers kernels."""

    build: Build
    kernels: bool


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape) * SIZE


def lora(shape: Shape, rank: int = 16) -> dict[str, Tensor]:
    """LoRA, and on kernels LoCon; alpha is half the rank."""
    ones = (1,) * (len(shape) - 2)
    down, up = _random(rank, *shape[1:]), _random(shape[0], rank, *ones)
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(rank / 2)}


def loha(shape: Shape, rank: int = 8) -> dict[str, Tensor]:
    """LoHa; alpha is half the rank."""
    columns = prod(shape[1:])
    found = {f"hada_w{i}_a": torch.randn(shape[0], rank) * 0.1 for i in (1, 2)}
    found |= {f"hada_w{i}_b": torch.randn(rank, columns) * 0.1 for i in (1, 2)}
    return {**found, "alpha": torch.tensor(rank / 2)}


def lokr(shape: Shape, factor: int = 8) -> dict[str, Tensor]:
    """LoKr whose second factor is stored whole: its scale is 1, whatever alpha says."""
    second = (shape[0] // factor, shape[1] // factor, *shape[2:])
    return {"lokr_w1": torch.randn(factor, factor) * 0.1, "lokr_w2": _random(*second), "alpha": torch.tensor(1.0)}


def lokr_rank(shape: Shape, factor: int = 8, rank: int = 16) -> dict[str, Tensor]:
    """LoKr whose second factor is of a low rank; alpha is half the rank."""
    first, second = _random(shape[0] // factor, rank), _random(rank, prod(shape[1:]) // factor)
    return {"lokr_w1": torch.randn(factor, factor) * 0.1, "lokr_w2_a": first, "lokr_w2_b": second, "alpha": torch.tensor(rank / 2)}


def oft(shape: Shape, block: int = 32) -> dict[str, Tensor]:
    """Diag-OFT: blocks on the output rows; its alpha is a constraint, and 0 means none."""
    return {"oft_blocks": _random(shape[0] // block, block, block), "alpha": torch.tensor(0.0)}


KINDS = {"lora": Kind(lora, False), "locon": Kind(lora, True), "loha": Kind(loha, True), "lokr": Kind(lokr, True), "oft": Kind(oft, True)}
MORE = {"lokr_rank": Kind(lokr_rank, True)}  # measured when it is named
_ATTENTION = re.compile(r"\.(to_[qkv]|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2|[qkv]_proj|out_proj|fc1|fc2)$")
_CONVOLUTION = re.compile(r"\.(in_layers\.2|out_layers\.3|skip_connection|op|conv)$")


def layers(base: BaseModel, kernels: bool) -> Iterator[tuple[str, Shape]]:
    """Yield (kohya's name, shape) of all attention and feed-forward layers, and of the blocks' convolutions."""
    for module, info in base.layers.items():
        name = base.name_in("kohya", module)
        if name and (_ATTENTION.search(module) or (kernels and _CONVOLUTION.search(module))):
            yield name, info.shape


def tensors(kind: str, base: BaseModel, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Return a network's tensors as a file holds them."""
    torch.manual_seed(1000 + seed)
    found, made = {}, {**KINDS, **MORE}[kind]
    for name, shape in layers(base, made.kernels):
        found.update({f"{name}.{suffix}": tensor.to(dtype) for suffix, tensor in made.build(shape).items()})
    return found


def write(kind: str, base: BaseModel, folder: Path, dtype: torch.dtype, seed: int = 0) -> Path:
    """Write a network, once; it is in the page cache then.

    In the dtype that is computed in: of LoHa and LoKr the host computes in the file's, and on a CPU that is not half precision.
    """
    path = folder / f"{kind}-{seed}.safetensors"
    if not path.exists() or HASH not in open_file(path).metadata:
        found = tensors(kind, base, dtype, seed)
        save(path, found, {HASH: "0" * 64})
        save(path, found, {HASH: model_hash(path)})  # of what stands behind the header
    return path


def stored_bytes(path: Path, dtype: torch.dtype) -> int:
    """Return how many bytes a network's factors take in a dtype."""
    found = open_file(path).tensors
    return sum(prod(info.shape) for key, info in found.items() if not key.endswith(".alpha")) * torch.empty((), dtype=dtype).element_size()
