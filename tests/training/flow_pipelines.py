"""Flux.1 and Z-Image at tiny width with random weights, as folders that diffusers wrote."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model, T5Config, T5EncoderModel

from lib_lycoris.hosts.embedded.tokenizer import byte_tokenizer
from tests.models.tiny_transformers import CLASSES

WIDTH, POOLED = 24, 20  # of the text as the transformers of tests/models read it
TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"


def flux(folder: Path, guidance: bool = True) -> Path:
    """Write a Flux.1; guidance: dev, else schnell."""
    torch.manual_seed(5)
    byte = byte_tokenizer()
    clip = CLIPTextConfig(
        vocab_size=len(byte), hidden_size=POOLED, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        bos_token_id=len(byte) - 2, eos_token_id=len(byte) - 1,
    )  # fmt: skip
    t5 = T5Config(vocab_size=300, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")
    sizes = {**CLASSES["flux"][1], "in_channels": 16, "guidance_embeds": guidance}
    pipe = FluxPipeline(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance, shift=3.0 if guidance else 1.0), vae(),
        CLIPTextModel(clip), byte, lively(T5EncoderModel(t5)), bytes_tokenizer(), lively(FluxTransformer2DModel(**sizes)),
    )  # fmt: skip
    pipe.save_pretrained(str(folder))
    return folder


def z_image(folder: Path) -> Path:
    """Write a Z-Image."""
    torch.manual_seed(6)
    qwen = Qwen3Config(
        vocab_size=300,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=12,
    )
    pipe = ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0), vae(), Qwen3Model(qwen), bytes_tokenizer(),
        lively(ZImageTransformer2DModel(**{**CLASSES["z-image"][1], "axes_lens": [600, 32, 32]})),
    )  # fmt: skip
    pipe.save_pretrained(str(folder))
    return folder


def vae() -> AutoencoderKL:
    """Return an autoencoder of four channels, whose latents are shifted and scaled."""
    return AutoencoderKL(
        latent_channels=4, block_out_channels=[8] * 4, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=4, scaling_factor=0.36, shift_factor=0.12, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a word for each byte, an end mark and a chat template."""
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{chr(byte): byte - 30 for byte in range(33, 127)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512, chat_template=TEMPLATE
    )


@torch.no_grad()
def lively(model: nn.Module) -> nn.Module:
    """Give every linear layer weights that pass a signal on: those that training begins with make many of them nearly silent."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(0.0, 0.7 * module.weight.shape[1] ** -0.5)
    return model
