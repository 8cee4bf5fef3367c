"""What the tiny transformers of each family are called with: one small picture, five tokens of text, one time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .tiny_transformers import LIKE

TOKENS, SIDE = 5, 8


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def text(width: int) -> Tensor:
    return rand(1, TOKENS, width)


def grid(axes: int = 3, side: int = 4) -> Tensor:
    """Return the places of a picture's tokens: row and column stand last."""
    places = torch.zeros(side, side, axes)
    places[..., -2], places[..., -1] = torch.arange(side)[:, None], torch.arange(side)[None]
    return places.reshape(side * side, axes)


def all_true(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.bool)


HALF, STEP = torch.tensor([0.5]), torch.tensor([500.0])
MASK, NO_PADDING = all_true(1, TOKENS), torch.zeros(1, 1, SIDE, SIDE)
PACKED = {"hidden_states": rand(1, 16, 4), "timestep": HALF, "img_ids": grid(), "txt_ids": torch.zeros(TOKENS, 3)}
PICTURE, CLIP = rand(1, 4, SIDE, SIDE), rand(1, 4, 1, SIDE, SIDE)
XL = {"added_cond_kwargs": {"text_embeds": rand(1, 20), "time_ids": torch.ones(1, 6)}}


def unet(width: int, **more: Any) -> dict[str, Any]:
    return {"sample": PICTURE, "timestep": STEP, "encoder_hidden_states": text(width), **more}


def omnigen() -> dict[str, Any]:
    length = TOKENS + 1 + 16
    return {
        "hidden_states": PICTURE, "timestep": HALF, "input_ids": torch.arange(TOKENS)[None] + 5, "input_img_latents": [],
        "input_image_sizes": {},
        "attention_mask": torch.ones(1, length, length), "position_ids": torch.arange(length)[None],
    }  # fmt: skip


def ideogram() -> dict[str, Any]:
    length = TOKENS + 16
    places = torch.cat([torch.zeros(TOKENS, 3), grid()]).long()[None]
    from diffusers.models.transformers.transformer_ideogram4 import LLM_TOKEN_INDICATOR, OUTPUT_IMAGE_INDICATOR

    return {
        "hidden_states": rand(1, length, 4), "timestep": HALF, "encoder_hidden_states": rand(1, length, 24), "position_ids": places,
        "segment_ids": torch.zeros(1, length, dtype=torch.long),
        "indicator": torch.tensor([[LLM_TOKEN_INDICATOR] * TOKENS + [OUTPUT_IMAGE_INDICATOR] * 16]),
    }  # fmt: skip


INPUTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "sd1": lambda: unet(24),
    "sd2": lambda: unet(24),
    "sdxl": lambda: unet(24, **XL),
    "sdxl-refiner": lambda: unet(24, **XL),
    "flux": lambda: PACKED | {"encoder_hidden_states": text(24), "pooled_projections": rand(1, 20), "guidance": torch.tensor([3.5])},
    "sd3": lambda: {"hidden_states": PICTURE, "encoder_hidden_states": text(24), "pooled_projections": rand(1, 20), "timestep": STEP},
    "chroma": lambda: PACKED | {"encoder_hidden_states": text(24)},
    "flux2-dev": lambda: PACKED | {
        "encoder_hidden_states": text(24), "img_ids": grid(4), "txt_ids": torch.zeros(TOKENS, 4), "guidance": torch.tensor([3.5])
    },
    "flux2-klein-4b": lambda: PACKED | {"encoder_hidden_states": text(24), "img_ids": grid(4), "txt_ids": torch.zeros(TOKENS, 4)},
    "qwen-image": lambda: {
        "hidden_states": rand(1, 16, 16), "encoder_hidden_states": text(24), "encoder_hidden_states_mask": MASK, "timestep": HALF,
        "img_shapes": [[(1, 4, 4)]],
    },
    "z-image": lambda: {"x": [rand(4, 1, SIDE, SIDE)], "t": HALF, "cap_feats": [rand(TOKENS, 24)]},
    "lumina2": lambda: {"hidden_states": PICTURE, "timestep": HALF, "encoder_hidden_states": text(24), "encoder_attention_mask": MASK},
    "wan2.1-14b": lambda: {
        "hidden_states": CLIP, "timestep": STEP, "encoder_hidden_states": text(24), "encoder_hidden_states_image": rand(1, 257, 20)
    },
    "wan2.2-5b": lambda: {"hidden_states": CLIP, "timestep": STEP, "encoder_hidden_states": text(24)},
    "anima": lambda: {"hidden_states": CLIP, "timestep": HALF, "encoder_hidden_states": text(24), "padding_mask": NO_PADDING},
    "cosmos-7b": lambda: {
        "hidden_states": CLIP, "timestep": HALF, "encoder_hidden_states": text(24), "padding_mask": NO_PADDING, "fps": 24
    },
    "krea2": lambda: {
        "hidden_states": rand(1, 16, 16), "encoder_hidden_states": rand(1, TOKENS, 3, 32), "timestep": HALF,
        "position_ids": torch.cat([torch.zeros(TOKENS, 3), grid()]),
    },
    "auraflow": lambda: {"hidden_states": PICTURE, "encoder_hidden_states": text(24), "timestep": HALF},
    "hidream": lambda: {
        "hidden_states": PICTURE, "timesteps": STEP, "encoder_hidden_states_t5": text(24),
        "encoder_hidden_states_llama3": rand(2, 1, TOKENS, 20), "pooled_embeds": rand(1, 12),
    },
    "hunyuan-video": lambda: {
        "hidden_states": CLIP, "timestep": STEP, "encoder_hidden_states": text(24), "encoder_attention_mask": MASK,
        "pooled_projections": rand(1, 20), "guidance": torch.tensor([6000.0]),
    },
    "hunyuan-image-2.1": lambda: {
        "hidden_states": PICTURE, "timestep": STEP, "encoder_hidden_states": text(24), "encoder_attention_mask": MASK,
        "encoder_hidden_states_2": text(20), "encoder_attention_mask_2": MASK,
    },
    "hunyuan-video-1.5": lambda: {
        "hidden_states": CLIP, "timestep": STEP, "encoder_hidden_states": text(24), "encoder_attention_mask": MASK,
        "encoder_hidden_states_2": text(20), "encoder_attention_mask_2": MASK, "image_embeds": rand(1, 3, 28),
    },
    "longcat-image": lambda: PACKED | {"encoder_hidden_states": text(24)},
    "bria": lambda: PACKED | {"encoder_hidden_states": text(24)},
    "ovis-image": lambda: PACKED | {"encoder_hidden_states": text(24)},
    "ltx": lambda: {
        "hidden_states": rand(1, 16, 4), "encoder_hidden_states": text(24), "timestep": STEP, "encoder_attention_mask": MASK,
        "num_frames": 1, "height": 4, "width": 4,
    },
    "ltx2": lambda: {
        "hidden_states": rand(1, 16, 4), "audio_hidden_states": rand(1, 6, 4), "encoder_hidden_states": text(24),
        "audio_encoder_hidden_states": text(24), "timestep": STEP, "num_frames": 1, "height": 4, "width": 4, "audio_num_frames": 6,
    },
    "pixart": lambda: {
        "hidden_states": PICTURE, "encoder_hidden_states": text(24), "timestep": STEP,
        "added_cond_kwargs": {"resolution": torch.tensor([[64.0, 64.0]]), "aspect_ratio": torch.tensor([[1.0]])},
    },
    "sana": lambda: {"hidden_states": PICTURE, "encoder_hidden_states": text(24), "timestep": STEP},
    "cogview4": lambda: {
        "hidden_states": PICTURE, "encoder_hidden_states": text(24), "timestep": STEP, "original_size": torch.tensor([[64, 64]]),
        "target_size": torch.tensor([[64, 64]]), "crop_coords": torch.tensor([[0, 0]]),
    },
    "glm-image": lambda: {
        "hidden_states": PICTURE, "encoder_hidden_states": text(24), "prior_token_id": torch.arange(16)[None] % 12,
        "prior_token_drop": torch.zeros(1, 16, dtype=torch.bool), "timestep": STEP, "target_size": torch.tensor([[64, 64]]),
        "crop_coords": torch.tensor([[0, 0]]),
    },
    "omnigen": omnigen,
    "ernie-image": lambda: {"hidden_states": PICTURE, "timestep": STEP, "text_bth": text(24), "text_lens": torch.tensor([TOKENS])},
    "ideogram4": ideogram,
    "kandinsky5": lambda: {
        "hidden_states": rand(1, 1, SIDE, SIDE, 4), "encoder_hidden_states": text(24), "timestep": STEP, "pooled_projections": rand(1, 20),
        "visual_rope_pos": [torch.arange(1), torch.arange(4), torch.arange(4)], "text_rope_pos": torch.arange(TOKENS),
    },
    "cogvideox": lambda: {
        "hidden_states": rand(1, 1, 4, SIDE, SIDE), "encoder_hidden_states": text(24), "timestep": STEP,
        "image_rotary_emb": (rand(16, 16), rand(16, 16)),
    },
    "mochi": lambda: {"hidden_states": CLIP, "encoder_hidden_states": text(24), "timestep": STEP, "encoder_attention_mask": MASK},
    "hunyuan-dit": lambda: {
        "hidden_states": PICTURE, "timestep": STEP, "encoder_hidden_states": text(24), "text_embedding_mask": torch.ones(1, 5),
        "encoder_hidden_states_t5": rand(1, 6, 24), "text_embedding_mask_t5": torch.ones(1, 6), "image_meta_size": torch.ones(1, 6),
        "style": torch.zeros(1, dtype=torch.long), "image_rotary_emb": (rand(16, 16), rand(16, 16)),
    },
    "stable-cascade": lambda: {
        "sample": rand(1, 4, SIDE, SIDE), "timestep_ratio": HALF, "clip_text_pooled": rand(1, 1, 20), "clip_text": text(24),
        "clip_img": rand(1, 1, 12),
    },
    "animatediff-motion": lambda: {
        "sample": rand(1, 4, 2, SIDE, SIDE), "timestep": STEP, "encoder_hidden_states": text(24).expand(2, -1, -1)
    },
}  # fmt: skip


@torch.no_grad()
def image(family: str, model: Any) -> Tensor:
    """Return what a family's transformer makes of its input."""
    made = model(**INPUTS[LIKE.get(family, family)](), return_dict=False)[0]
    return made[0] if isinstance(made, list) else made  # type: ignore[no-any-return]
