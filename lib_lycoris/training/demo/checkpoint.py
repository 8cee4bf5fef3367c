"""The trained parts -> one checkpoint file with the names of Stable Diffusion 1, so that every tool takes it as one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...hosts.embedded.shapes import GENERATING, UNET, VAE
from ...models.unet import to_ldm
from .base import Model

UP_WITH_ATTENTION = (1, 2, 3)  # numbers of the UNet's up blocks
_VAE_INNER = (
    ("mid_block.attentions.0.", "mid.attn_1."), ("group_norm.", "norm."), ("to_q.", "q."), ("to_k.", "k."), ("to_v.", "v."),
    ("to_out.0.", "proj_out."), ("mid_block.resnets.0.", "mid.block_1."), ("mid_block.resnets.1.", "mid.block_2."),
    ("conv_norm_out.", "norm_out."), ("conv_shortcut.", "nin_shortcut."),
)  # fmt: skip


def write(model: Model, path: Path, metadata: dict[str, str]) -> None:
    """Write a model as a checkpoint in half precision."""
    tensors = {f"{UNET}{_unet_key(key)}": value for key, value in model.unet.state_dict().items()}
    levels = len(model.vae.config.block_out_channels)
    tensors.update({f"{VAE}{_vae_key(key, levels)}": _vae_value(key, value) for key, value in model.vae.state_dict().items()})
    text = {key: value for key, value in model.text_encoder.state_dict().items() if not key.endswith("position_ids")}
    tensors.update(
        {f"{GENERATING['sd1'].towers[0].prefix}text_model.{key.removeprefix('text_model.')}": value for key, value in text.items()}
    )
    save_file({key: value.to(torch.float16).contiguous() for key, value in tensors.items()}, str(path), metadata)


def _unet_key(key: str) -> str:
    module, _, leaf = key.rpartition(".")
    return f"{to_ldm(module, UP_WITH_ATTENTION)}.{leaf}"


def _vae_key(key: str, levels: int) -> str:
    for theirs, ours in _VAE_INNER:
        key = key.replace(theirs, ours)
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda found: f"up.{levels - 1 - int(found[1])}.block.", key)
    return re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda found: f"up.{levels - 1 - int(found[1])}.upsample.", key)


def _vae_value(key: str, value: Tensor) -> Tensor:
    attention = re.search(r"attentions\.0\.to_.*weight$", key)
    return value[:, :, None, None] if attention else value


def describe(title: str, about: str) -> dict[str, Any]:
    """Return the metadata of the checkpoint."""
    return {
        "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "stable-diffusion-v1", "modelspec.title": title,
        "modelspec.description": about, "modelspec.prediction_type": "v", "modelspec.resolution": "64x64",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
    }  # fmt: skip
