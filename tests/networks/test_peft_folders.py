"""Folders of PEFT with one adapter for each component: each is read on the layers that it was trained on, the whole is not guessed at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lib_lycoris import load, models
from lib_lycoris.errors import NetworkFormatError
from lib_lycoris.networks.writer import save

ENCODER = "text_model.encoder.layers.0.mlp.fc1"
PARTS = {
    "unet": ("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", (640, 2048), "diffusion_model.input_blocks.4.1."),
    "text_encoder": (ENCODER, (3072, 768), "0.transformer.text_model.encoder.layers.0."),
    "text_encoder_2": (ENCODER, (5120, 1280), "1.model.transformer.resblocks.0."),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, (module, (rows, columns), _) in PARTS.items():
        (tmp_path / "sdxl" / part).mkdir(parents=True)
        factors = {"lora_A.weight": torch.randn(4, columns), "lora_B.weight": torch.randn(rows, 4)}
        tensors = {f"base_model.model.{module}.{name}": tensor for name, tensor in factors.items()}
        save(tmp_path / "sdxl" / part / "adapter_model.safetensors", tensors)
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
        (tmp_path / "sdxl" / part / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path / "sdxl"


@pytest.mark.parametrize("part", PARTS)
def test_each_component_is_put_on_its_own_layers(part: str, folder: Path) -> None:
    network = load(folder / part, models.reference("sdxl"))
    (name,), (change,) = network.patches.keys(), network.patches.values()
    assert name.startswith(PARTS[part][2]) and change.scale == 2.0 and not network.skipped  # type: ignore[attr-defined]


def test_a_second_text_encoder_is_told_by_its_width_on_every_layer(folder: Path) -> None:
    """Layers that only it has and layers that both have are of one encoder."""
    file = folder / "text_encoder_2/adapter_model.safetensors"
    factors = {"lora_A.weight": torch.randn(4, 1280), "lora_B.weight": torch.randn(5120, 4)}
    save(file, {f"base_model.model.{ENCODER.replace('0', str(n))}.{key}": value.clone() for n in (0, 31) for key, value in factors.items()})
    assert sorted(load(file).patches) == [f"1.model.transformer.resblocks.{n}.mlp.c_fc.weight" for n in (0, 31)]


def test_the_folder_of_all_names_them(folder: Path) -> None:
    with pytest.raises(NetworkFormatError, match=r"sdxl is a folder without a network file; it holds one for each component, .*unet/"):
        load(folder)
