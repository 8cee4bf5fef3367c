"""Small network files for the tiny SD1 checkpoint, with what cards, lists and the form have to cope with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

SD1 = ("lora_unet_down_blocks_0_attentions_0_", 320)
TINY = ("lora_unet_down_blocks_0_attentions_0_", 32)  # of the tiny checkpoints: a file of no known family, which fits them all the same
SDXL = ("lora_unet_input_blocks_4_1_", 640)
EVIL = "<img src=x onerror=window.HACKED=1>"
HOSTILE = f"'\">{EVIL}"  # ends attributes too


def write_network(path: Path, kind: tuple[str, int] = TINY, scale: float = 0.5, **metadata: str) -> None:
    """Write a random LoRA on a few layers of the first attention block of the UNet."""
    prefix, width = kind
    torch.manual_seed(1)
    layers = {"proj_in": (width, width, 1, 1)} if kind is not SDXL else {"transformer_blocks_1_ff_net_2": (width, 4 * width)}
    layers |= {f"transformer_blocks_0_attn1_to_{which}": (width, width) for which in "qkv"}
    tensors = {}
    for name, (rows, columns, *kernel) in layers.items():
        tensors[f"{prefix}{name}.lora_down.weight"] = torch.randn(4, columns, *kernel) * scale
        tensors[f"{prefix}{name}.lora_up.weight"] = torch.randn(rows, 4, *kernel) * scale
        tensors[f"{prefix}{name}.alpha"] = torch.tensor(4.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=dict(metadata))


def notes(path: Path, said: object) -> None:
    """Write what the user noted about a file."""
    path.with_suffix(".json").write_text(json.dumps(said), encoding="utf-8")


def write_hostile(folder: Path) -> None:
    """Fill a folder, itself called so, with networks whose names, metadata and notes all are HTML."""
    texts = ("ss_output_name", "ss_sd_model_name", "ss_training_comment", "ss_network_module")
    said = ("modelspec.title", "modelspec.description", "modelspec.trigger_phrase", "modelspec.author", "modelspec.tags")
    fields = ("description", "activation text", "preferred weight", "negative text", "notes", "sd version", HOSTILE)
    for name in (EVIL, HOSTILE):
        path = folder / HOSTILE / f"{name}.safetensors"
        write_network(path, **dict.fromkeys((*texts, *said), HOSTILE), ss_tag_frequency=json.dumps({HOSTILE: {HOSTILE: 3}}))
        notes(path, dict.fromkeys(fields, HOSTILE))


def write_traps(folder: Path) -> None:
    """Add what the built-in loader's own page does not survive."""
    write_network(folder / "trap.safetensors", ssmd_cover_images="no list")
    notes(folder / "trap.safetensors", ["no", "table"])


def write_samples(folder: Path) -> None:
    """Fill a folder with networks good and bad."""
    cat = folder / "cat-style.safetensors"
    tags: Mapping[str, Mapping[str, int]] = {"10_cat": {"cat": 40, "orange fur": 31}, "5_dog": {"dog": 9}}
    write_network(
        cat, SD1, ss_output_name="Cat Style v2", ss_tag_frequency=json.dumps(tags), ss_sd_model_name="toy.ckpt", ss_network_dim="4",
        sshs_model_hash="ab" * 32,
    )  # fmt: skip
    notes(cat, {"description": "Cats in ink & wash", "activation text": "inkcat, wash", "preferred weight": 0.8,
                "negative text": "blurry", "mine": "kept"})  # fmt: skip
    Image.radial_gradient("L").convert("RGB").save(folder / "cat-style.preview.png")
    write_network(folder / "sub" / "odd & 'name'.safetensors", SD1, ss_output_name=EVIL,
                  ss_tag_frequency=json.dumps({"a": {"<script>window.HACKED=1</script>": 3}}))  # fmt: skip
    (folder / "sub" / "odd & 'name'.txt").write_text(EVIL, encoding="utf-8")
    write_network(folder / "plain.safetensors")
    notes(folder / "plain.safetensors", {"preferred weight": "much", "notes": 5})
    write_network(folder / "large.safetensors", SDXL)
    (folder / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0nonsense")
