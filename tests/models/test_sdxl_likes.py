"""Kolors and SSD-1B have layers of SDXL's names and sizes: its networks go on their UNets and say how many layers they have there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from lib_lycoris import Patcher, load
from lib_lycoris.models import BaseModel, reference
from lib_lycoris.models.detect import recognise

UNET: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048, "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
}  # fmt: skip
KOLORS = {"projection_class_embeddings_input_dim": 5632, "encoder_hid_dim": 4096, "encoder_hid_dim_type": "text_proj",
          "transformer_layers_per_block": [1, 2, 10]}  # fmt: skip
SSD_1B = {
    "projection_class_embeddings_input_dim": 2816, "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, [2, 2], [4, 4]],
    "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
}  # fmt: skip
# layers of an SDXL network; SSD-1B has no attention in the middle, and fewer blocks before it
NAMES = ("down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k", "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k",
         "mid_block.attentions.0.transformer_blocks.0.attn2.to_k", "up_blocks.0.attentions.2.transformer_blocks.9.attn2.to_k")  # fmt: skip

LACKS = "the model has no layer of this name, which other models of Stable Diffusion XL have"


def base_of(**config: Any) -> BaseModel:
    with torch.device("meta"):
        return Patcher({"unet": UNet2DConditionModel(**UNET, **config)}).base


def network(path: Path) -> Path:
    tensors = {}
    for name in NAMES:
        out = 640 if name.startswith("down_blocks.1") else 1280
        tensors |= {f"unet.{name}.lora_A.weight": torch.ones(1, 2048), f"unet.{name}.lora_B.weight": torch.ones(out, 1)}
    save_file(tensors, str(path))
    return path


@pytest.mark.parametrize(("config", "layers"), [(KOLORS, None), (SSD_1B, "2 of 4 layers")])
def test_the_unet_is_sdxls_and_its_networks_say_what_they_change(tmp_path: Path, config: dict[str, Any], layers: str | None) -> None:
    base = base_of(**config)
    assert base.family == "sdxl"
    found = load(network(tmp_path / "style.safetensors"), base)
    assert found.coverage == layers
    assert bool(found.skipped) == (layers is not None) and all(reason == LACKS for _, reason in found.skipped)


def test_all_layers_of_ssd_1b_are_layers_of_sdxl() -> None:
    known = reference("sdxl").layers
    base = base_of(**SSD_1B)
    assert len(base.layers) > 500 and all(tuple(known[name].shape) == tuple(layer.shape) for name, layer in base.layers.items())


@pytest.mark.parametrize("said", ["Kolors", "SSD-1B", "kwai-kolors/Kolors-diffusers", "segmind/SSD-1B"])
def test_a_network_that_says_one_of_them_is_for_sdxls_layers(said: str) -> None:
    shapes = {
        f"unet.{name}": {"lora_down.weight": (1, 2048), "lora_up.weight": (640 if "blocks.1" in name[:14] else 1280, 1)} for name in NAMES
    }
    found = recognise(shapes, {"ss_base_model_version": said.rpartition("/")[2]})
    assert found.family == "sdxl" and "by the names and shapes of its layers and by its metadata" in found.reason
