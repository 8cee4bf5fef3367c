"""A tiny random Stable Diffusion 1, made in memory from a seed: the same module names as the real one, a few channels each.

Its images are coloured noise that changes with every word and every network, which is what a test needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .models import LoadedModel
from .shapes import SCHEDULE
from .tokenizer import byte_tokenizer

NAME = "tiny-random-sd1"
SEED = 20231
TEXT_LAYERS, TEXT_WIDTH = 4, 32
UNET: dict[str, Any] = {
    "sample_size": 16, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "block_out_channels": [32, 48, 64, 64],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "cross_attention_dim": TEXT_WIDTH, "attention_head_dim": 4, "norm_num_groups": 8,
}  # fmt: skip
VAE: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "block_out_channels": [8, 16, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "norm_num_groups": 8,
    "sample_size": 128, "scaling_factor": 1.0,
}  # fmt: skip
TEXT_SHARE = 4.0  # how much louder than a fresh layer the prompt's way into the image is


def tiny_model(device: torch.device) -> LoadedModel:
    """Return the tiny model, the same bits on every call of one torch version."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = byte_tokenizer()
    last = len(tokenizer) - 1
    text = {
        "vocab_size": len(tokenizer), "hidden_size": TEXT_WIDTH, "intermediate_size": 2 * TEXT_WIDTH, "projection_dim": TEXT_WIDTH,
        "num_hidden_layers": TEXT_LAYERS, "num_attention_heads": 4, "bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        parts = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE), CLIPTextModel(CLIPTextConfig(**text))
        unet, vae, encoder = (_lively(part).eval() for part in parts)
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, unet=unet, safety_checker=None, feature_extractor=None,
        scheduler=DDIMScheduler(**SCHEDULE, prediction_type="v_prediction"), requires_safety_checker=False,
    )  # fmt: skip
    return LoadedModel(pipe.to(device), "sd1", NAME, penultimate=False, size=128)


@torch.no_grad()
def _lively(model: nn.Module) -> nn.Module:
    """Give every layer weights that pass a signal on at its own size, instead of the near-zero ones that training begins with."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            gain = TEXT_SHARE if ".attn2.to_out" in name or ".attn2.to_v" in name else 1.0
            module.weight.normal_(0.0, gain * module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                module.bias.normal_(0.0, 0.05)
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, 1.0)
    return model
