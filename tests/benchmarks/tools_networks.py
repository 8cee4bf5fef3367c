"""Networks of full SD 1.5 shapes that the tools' benchmark works on, of random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lib_lycoris.models import LayerInfo, reference

METADATA = {"ss_base_model_version": "sd_v1", "ss_output_name": "bench"}
RANKS = {"locon": 32, "other": 32, "loha": 8, "lokr": 8, "dylora": 32, "dead": 16}
KERNEL_RANK = 16


def layers() -> Iterator[tuple[str, LayerInfo]]:
    """Yield the names in kohya's style, and the shapes, of the layers that a network of SD 1.5 has."""
    base = reference("sd1")
    for module, info in base.layers.items():
        name = base.name_in("kohya", module)
        if name is not None and info.kind in ("Linear", "Conv2d") and not module.endswith(("token_embedding", "text_projection")):
            yield name, info


def network(kind: str, folder: Path, seed: int = 0) -> str:
    """Write a network, if it is not there; return its path."""
    path = folder / f"{kind}-{seed}.safetensors"
    if not path.exists():
        made = torch.Generator().manual_seed(seed + sum(map(ord, kind)))
        tensors: dict[str, Tensor] = {}
        for number, (name, info) in enumerate(layers()):
            module = _module(kind, info, made)
            if kind == "dead" and number % 4 == 0:
                module = {suffix: torch.zeros_like(tensor) if suffix == "lora_up.weight" else tensor for suffix, tensor in module.items()}
            tensors.update({f"{name}.{suffix}": tensor.contiguous() for suffix, tensor in module.items()})
        extra = {"ss_network_module": "networks.dylora", "ss_network_args": '{"unit": "4"}'} if kind == "dylora" else {}
        save_file(tensors, path, {**METADATA, **extra})
    return str(path)


def _module(kind: str, info: LayerInfo, made: torch.Generator) -> dict[str, Tensor]:
    out, inner, rank = info.shape[0], prod(info.shape[1:]), RANKS[kind]

    def some(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=made) * 0.02).half()

    if kind == "loha":
        return {"hada_w1_a": some(out, rank), "hada_w1_b": some(rank, inner), "hada_w2_a": some(out, rank),
                "hada_w2_b": some(rank, inner), "alpha": torch.tensor(4.0)}  # fmt: skip
    if kind == "lokr":
        kernel = tuple(info.shape[2:])
        return {"lokr_w1": some(4, 4) if info.shape[1] % 4 == 0 and out % 4 == 0 else some(1, 1), **_second(info, some, kernel)}
    ones = tuple(1 for _ in info.shape[2:])
    rank = KERNEL_RANK if prod(info.shape[2:]) > 1 and kind != "dylora" else rank
    scaled = torch.linspace(1, 0.05, rank).half()  # spectra decay, as those of trained ones do
    return {"lora_up.weight": (some(out, rank) * scaled).reshape(out, rank, *ones), "lora_down.weight": some(rank, *info.shape[1:]),
            "alpha": torch.tensor(rank / 2)}  # fmt: skip


def _second(info: LayerInfo, some, kernel: tuple[int, ...]) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    parts = 4 if info.shape[1] % 4 == 0 and info.shape[0] % 4 == 0 else 1
    rank = RANKS["lokr"]
    return {"lokr_w2_a": some(info.shape[0] // parts, rank), "lokr_w2_b": some(rank, info.shape[1] // parts * prod(kernel)),
            "alpha": torch.tensor(4.0)}  # fmt: skip
