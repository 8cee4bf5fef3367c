"""One good file of each kind that tools read, all of a tiny SD1, and what is looked at when a tool has run among them."""

from __future__ import annotations

import atexit
import contextlib
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from safetensors.torch import save_file

from lib_lycoris.tools import TOOLS

from .judge import Unclean

BLOCK = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0"
SHAPES = {
    f"{BLOCK}.attn1.to_q.weight": (16, 16), f"{BLOCK}.attn2.to_k.weight": (16, 24), f"{BLOCK}.norm1.weight": (16,),
    "model.diffusion_model.input_blocks.1.1.proj_in.weight": (16, 16, 1, 1),
    "model.diffusion_model.input_blocks.1.0.in_layers.2.weight": (12, 8, 3, 3),
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": (20, 16),
    "first_stage_model.decoder.conv_in.weight": (4, 4, 3, 3),
}  # fmt: skip
MODULES = (
    ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", (16, 16)),
    ("lora_unet_down_blocks_0_attentions_0_proj_in", (16, 16, 1, 1)), ("lora_te_text_model_encoder_layers_0_mlp_fc1", (20, 16)),
)  # fmt: skip
FILES = ("base.safetensors", "tuned.safetensors", "one.safetensors", "two.safetensors", "merged.safetensors", "merged.undo", "ranks.json")


def checkpoint(seed: int, change: float = 0.0) -> dict[str, torch.Tensor]:
    """Return the weights of a tiny SD1, changed a little for a tuned one."""
    made = torch.Generator().manual_seed(seed)
    weights = {key: torch.randn(shape, generator=made) * 0.05 for key, shape in SHAPES.items()}
    return {key: value + change * torch.randn(value.shape, generator=made) for key, value in weights.items()}


def lora(seed: int) -> dict[str, torch.Tensor]:
    """Return a LoRA for it."""
    made, tensors = torch.Generator().manual_seed(seed), {}
    for name, (out, into, *kernel) in MODULES:
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, 3, *([1] * len(kernel)), generator=made) * 0.1
        tensors[f"{name}.lora_down.weight"] = torch.randn(3, into, *kernel, generator=made) * 0.1
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    return tensors


@cache
def good_files() -> Path:
    """Return a folder with one good file of each kind."""
    folder = Path(mkdtemp(prefix="lycoris-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    save_file(checkpoint(1), folder / "base.safetensors", {"format": "pt"})
    save_file(checkpoint(1, 0.01), folder / "tuned.safetensors", {"format": "pt"})
    for seed, name in enumerate(("one", "two")):
        save_file(lora(seed), folder / f"{name}.safetensors", {"ss_network_dim": "3", "modelspec.title": name})
    TOOLS["merge"].run(
        sd_model=folder / "base.safetensors", models=[folder / "one.safetensors"], save_to=folder / "merged.safetensors",
        undo_file=folder / "merged.undo",
    )  # fmt: skip
    (folder / "ranks.json").write_text('{"attn1": 2, ".*fc1$": 1}')
    return folder


def prepared(folder: Path) -> dict[str, bytes]:
    """Copy the good files into a folder; return what they are, to be compared afterwards."""
    for name in FILES:
        shutil.copyfile(good_files() / name, folder / name)
    return {name: (folder / name).read_bytes() for name in FILES}


@contextlib.contextmanager
def untouched(folder: Path) -> Iterator[set[str]]:
    """Raise Unclean if good files were changed, or half a file was left; gives a set for the names of files that may be written over."""
    before, named = prepared(folder), set[str]()
    try:
        yield named
    finally:
        changed = [name for name, data in before.items() if not (folder / name).is_file() or (folder / name).read_bytes() != data]
        left = [path.name for path in folder.rglob("*.part")]
    if set(changed) - named or left:
        raise Unclean(f"inputs changed: {changed}, left behind: {left}")
