"""A checkpoint's key names and shapes -> its family, and the configurations of the diffusers and transformers classes that hold it.

Everything but the number of attention heads can be read from shapes. Heads follow the released models (SD1: 8 heads; SD2
and SDXL: 64 channels a head; text encoders: 64 channels a head), scaled down for checkpoints narrower than any of those. Group norms
have 32 groups in all released models, and FEW in narrow ones whose widths 32 does not divide, such as the demo model. SD2 and SDXL
hold a text encoder under open_clip's names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...errors import HostError
from ...models.families import FAMILIES
from ...models.family import Generation, TextTower

Shapes = Mapping[str, tuple[int, ...]]
UNET, VAE = "model.diffusion_model.", "first_stage_model."

SCHEDULE: dict[str, Any] = {  # the noise of every Stable Diffusion before SD3
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False,
}  # fmt: skip

FEW = 2


GENERATING: dict[str, Generation] = {name: family.generation for name, family in FAMILIES.items() if family.generation is not None}


def family_of(shapes: Shapes, name: str) -> str:
    """Return "sd1", "sd2" or "sdxl"; raise HostError for a file that is something else or not made for text alone."""
    if "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight" in shapes:
        raise HostError(f"{name} is an SD3 checkpoint; this command makes images with SD1, SD2 and SDXL base checkpoints")
    if any("double_blocks." in key for key in shapes):
        raise HostError(f"{name} is a Flux checkpoint; this command makes images with SD1, SD2 and SDXL base checkpoints")
    if f"{UNET}input_blocks.0.0.weight" not in shapes:
        raise HostError(f"{name} holds no {UNET}input_blocks.0.0.weight: it is not a whole Stable Diffusion checkpoint")
    channels = shapes[f"{UNET}input_blocks.0.0.weight"][1]
    if channels != 4:
        raise HostError(f"{name} takes {channels} input channels (inpainting or editing), but a checkpoint for text (4) is needed")
    for family, generation in GENERATING.items():
        if all(any(key.startswith(tower.prefix) for key in shapes) for tower in generation.towers):
            return family
    if any(key.startswith("conditioner.embedders.0.model.") for key in shapes):
        raise HostError(f"{name} is the SDXL refiner, which makes no images alone; give an SDXL base checkpoint")
    raise HostError(f"{name} holds no text encoder of SD1, SD2 or SDXL; give a checkpoint with its text encoders")


def family_of_pipeline(towers: int, linear_projections: bool) -> str:
    """Return the family of a pipeline with so many text encoders; the older UNets have 1x1 convolutions and a fixed number of heads."""
    return next(
        name for name, generation in GENERATING.items()
        if len(generation.towers) == towers and (towers > 1 or (generation.heads is None) == linear_projections)
    )  # fmt: skip


def unet_config(shapes: Shapes, family: str, head_channels: int | None = None) -> dict[str, Any]:
    """Return the UNet2DConditionModel configuration; ``head_channels`` where something says it (a yaml beside the file)."""
    generation = GENERATING[family]
    levels = list(_levels(shapes))
    width = shapes[f"{UNET}input_blocks.0.0.weight"][0]
    blocks = [level["channels"] for level in levels]
    depths = [level["depth"] for level in levels]
    to_k = next(shapes[key] for key in shapes if key.startswith(UNET) and key.endswith("attn2.to_k.weight"))
    projection = next(shapes[key] for key in shapes if key.startswith(UNET) and key.endswith("proj_in.weight"))
    per_head = head_channels or (64 if width >= 320 else max(width // 2, 1))
    config: dict[str, Any] = {
        "sample_size": (generation.velocity_size or FAMILIES[family].size) // 8,
        "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "block_out_channels": blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "cross_attention_dim": to_k[1], "use_linear_projection": len(projection) == 2, "norm_num_groups": _groups(blocks),
        "transformer_layers_per_block": [max(depth, 1) for depth in depths],
        # diffusers calls this the dimension of a head and means their number
        "attention_head_dim": generation.heads or [max(channels // per_head, 1) for channels in blocks],
    }  # fmt: skip
    return config | (_added_conditions(shapes, generation.towers[1]) if len(generation.towers) > 1 else {})


def vae_config(shapes: Shapes, family: str) -> dict[str, Any]:
    """Return the AutoencoderKL configuration."""
    prefix, generation = f"{VAE}encoder.down.", GENERATING[family]
    levels = sum(f"{prefix}{level}.block.0.conv1.weight" in shapes for level in range(8))
    blocks = [shapes[f"{prefix}{level}.block.0.conv1.weight"][0] for level in range(levels)]
    return {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "block_out_channels": blocks,
        "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
        "sample_size": generation.autoencoder_size, "norm_num_groups": _groups(blocks), "scaling_factor": generation.latent_scale,
    }  # fmt: skip


def _groups(blocks: Sequence[int]) -> int:
    return FEW if any(width % 32 for width in blocks) else 32


def text_config(shapes: Shapes, tower: TextTower) -> dict[str, Any]:
    """Return the CLIPTextConfig arguments of one text encoder."""
    if tower.open_clip:
        embedding, inner = f"{tower.prefix}token_embedding.weight", f"{tower.prefix}transformer.resblocks.%d.mlp.c_fc.weight"
    else:
        root = clip_root(shapes, tower)
        embedding, inner = f"{root}embeddings.token_embedding.weight", f"{root}encoder.layers.%d.mlp.fc1.weight"
    vocabulary, hidden = shapes[embedding]
    projection = shapes.get(f"{tower.prefix}text_projection", (hidden, hidden))
    return {
        "vocab_size": vocabulary, "hidden_size": hidden, "intermediate_size": shapes[inner % 0][0],
        "num_hidden_layers": sum(inner % layer in shapes for layer in range(64)),
        "num_attention_heads": hidden // 64 if hidden >= 512 else 4, "max_position_embeddings": 77,
        "hidden_act": "gelu" if tower.open_clip else "quick_gelu", "projection_dim": projection[-1],
        "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": 0 if tower.open_clip else vocabulary - 1,
    }  # fmt: skip


def clip_root(shapes: Shapes, tower: TextTower) -> str:
    """Return the prefix of a CLIP text model's own names: some old merges lack its ``text_model.``."""
    whole = f"{tower.prefix}text_model."
    return whole if any(key.startswith(whole) for key in shapes) else tower.prefix


def _levels(shapes: Shapes) -> Iterator[dict[str, int]]:
    for level in range(8):
        place = f"{UNET}input_blocks.{1 + 3 * level}."
        weight = shapes.get(f"{place}0.out_layers.3.weight")
        if weight is None:
            return
        depth = sum(f"{place}1.transformer_blocks.{i}.attn1.to_q.weight" in shapes for i in range(16))
        yield {"channels": weight[0], "depth": depth}


def _added_conditions(shapes: Shapes, tower: TextTower) -> dict[str, Any]:
    total = shapes[f"{UNET}label_emb.0.0.weight"][1]
    pooled = shapes[f"{tower.prefix}text_projection"][-1]
    return {
        "addition_embed_type": "text_time", "projection_class_embeddings_input_dim": total,
        "addition_time_embed_dim": (total - pooled) // 6,  # original size, crop and target size: six numbers
    }  # fmt: skip


_OPEN_CLIP = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip


def from_open_clip(state: Mapping[str, Tensor], tower: TextTower) -> dict[str, Tensor]:
    """Return an open_clip text tower under transformers' names: q, k, v split, the projection transposed."""
    found: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not key.startswith(tower.prefix):
            continue
        name = key[len(tower.prefix) :]
        match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name)
        if match and match[2] == "attn.in_proj":
            for part, rows in zip("qkv", tensor.chunk(3)):
                found[f"encoder.layers.{match[1]}.self_attn.{part}_proj.{match[3]}"] = rows
        elif match and match[2] in _OPEN_CLIP:
            found[f"encoder.layers.{match[1]}.{_OPEN_CLIP[match[2]]}.{match[3]}"] = tensor
        elif name == "text_projection":
            found["text_projection.weight"] = tensor.T.contiguous()
        elif name == "positional_embedding":
            found["embeddings.position_embedding.weight"] = tensor
        elif name == "token_embedding.weight":
            found["embeddings.token_embedding.weight"] = tensor
        elif name.startswith("ln_final."):
            found["final_layer_norm." + name.removeprefix("ln_final.")] = tensor
    return found
