"""The transformer of each family as diffusers' own class at tiny width; families whose class this diffusers lacks are not listed."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import nn

JOINT = {"attention_head_dim": 16, "num_attention_heads": 2, "num_layers": 2, "num_single_layers": 2, "in_channels": 4}
ROPE = {"axes_dims_rope": (4, 4, 8)}
SD3 = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 24, "caption_projection_dim": 32, "pooled_projection_dim": 20, "pos_embed_max_size": 8,
}  # fmt: skip
VIDEO = {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "in_channels": 4, "out_channels": 4}

# the mask of padding is another input channel, which diffusers scales with torchvision: not in the tests' environment
COSMOS = VIDEO | {"text_embed_dim": 24, "adaln_lora_dim": 8, "max_size": (8, 16, 16), "concat_padding_mask": False}
WAN = VIDEO | {"text_dim": 24, "freq_dim": 16, "ffn_dim": 56, "rope_max_seq_len": 32}
FLUX2 = JOINT | {"joint_attention_dim": 24, "timestep_guidance_channels": 16, "axes_dims_rope": (4, 4, 4, 4)}
UNET = {
    "sample_size": 8, "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4, "cross_attention_dim": 24,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
XL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 44}

# family -> class, sizes
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "sd1": ("UNet2DConditionModel", UNET | {"attention_head_dim": 2}),
    "sd2": ("UNet2DConditionModel", UNET | {"attention_head_dim": (2, 4), "use_linear_projection": True}),
    "sdxl": ("UNet2DConditionModel", UNET | XL | {"use_linear_projection": True, "transformer_layers_per_block": (1, 2)}),
    "sdxl-refiner": ("UNet2DConditionModel", UNET | XL | {"use_linear_projection": True, "transformer_layers_per_block": 2}),
    "flux": ("FluxTransformer2DModel", {**JOINT, **ROPE, "joint_attention_dim": 24, "pooled_projection_dim": 20, "guidance_embeds": True}),
    "sd3": ("SD3Transformer2DModel", SD3 | {"qk_norm": "rms_norm", "dual_attention_layers": (0,)}),
    "chroma": (
        "ChromaTransformer2DModel",
        {**JOINT, **ROPE, "joint_attention_dim": 24, "approximator_num_channels": 8, "approximator_hidden_dim": 20,
         "approximator_layers": 2},
    ),
    "flux2-dev": ("Flux2Transformer2DModel", FLUX2),
    "flux2-klein-4b": ("Flux2Transformer2DModel", FLUX2 | {"guidance_embeds": False}),
    "qwen-image": (
        "QwenImageTransformer2DModel",
        {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "in_channels": 16, "out_channels": 4,
         "joint_attention_dim": 24, **ROPE},
    ),
    "z-image": (
        "ZImageTransformer2DModel",
        {"in_channels": 4, "dim": 32, "n_layers": 2, "n_refiner_layers": 2, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 24,
         "axes_dims": [4, 4, 8], "axes_lens": [64, 32, 32]},
    ),
    "lumina2": (
        "Lumina2Transformer2DModel",
        {"sample_size": 8, "in_channels": 4, "hidden_size": 48, "num_layers": 2, "num_attention_heads": 3, "num_kv_heads": 1,
         "multiple_of": 16, "axes_dim_rope": (4, 4, 8), "axes_lens": (64, 32, 32), "cap_feat_dim": 24},
    ),
    "wan2.1-14b": (
        "WanTransformer3DModel",
        WAN | {"image_dim": 20, "added_kv_proj_dim": 32},
    ),
    "wan2.2-5b": ("WanTransformer3DModel", WAN),
    "anima": (
        "CosmosTransformer3DModel",
        COSMOS | {"extra_pos_embed_type": None},
    ),
    "cosmos-7b": ("CosmosTransformer3DModel", COSMOS | {"extra_pos_embed_type": "learnable"}),
    "krea2": (
        "Krea2Transformer2DModel",
        {"in_channels": 16, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 56, "timestep_embed_dim": 16, "text_hidden_dim": 32, "num_text_layers": 3, "text_num_attention_heads": 2,
         "text_num_key_value_heads": 2, "text_intermediate_size": 40, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1,
         "axes_dims_rope": (4, 4, 8)},
    ),
    "auraflow": (
        "AuraFlowTransformer2DModel",
        {"sample_size": 8, "in_channels": 4, "num_mmdit_layers": 2, "num_single_dit_layers": 2, "attention_head_dim": 16,
         "num_attention_heads": 2, "joint_attention_dim": 24, "caption_projection_dim": 32, "pos_embed_max_size": 64},
    ),
    "hidream": (
        "HiDreamImageTransformer2DModel",
        {"patch_size": 2, "in_channels": 4, "num_layers": 2, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
         "caption_channels": [24, 20], "text_emb_dim": 12, "axes_dims_rope": (4, 4, 8), "max_resolution": (8, 8), "llama_layers": [0, 1]},
    ),
    "hunyuan-video": (
        "HunyuanVideoTransformer3DModel",
        VIDEO | {"num_single_layers": 2, "text_embed_dim": 24, "pooled_projection_dim": 20, "rope_axes_dim": (4, 4, 8)},
    ),
    "hunyuan-image-2.1": (
        "HunyuanImageTransformer2DModel",
        VIDEO | {"num_single_layers": 2, "text_embed_dim": 24, "text_embed_2_dim": 20, "rope_axes_dim": (8, 8)},
    ),
    "hunyuan-video-1.5": (
        "HunyuanVideo15Transformer3DModel",
        VIDEO | {"text_embed_dim": 24, "text_embed_2_dim": 20, "image_embed_dim": 28, "rope_axes_dim": (4, 4, 8)},
    ),
    "longcat-image": ("LongCatImageTransformer2DModel", {**JOINT, **ROPE, "joint_attention_dim": 24, "pooled_projection_dim": 24}),
    "bria": ("BriaTransformer2DModel", {**JOINT, **ROPE, "joint_attention_dim": 24}),
    "ovis-image": ("OvisImageTransformer2DModel", {**JOINT, **ROPE, "joint_attention_dim": 24, "out_channels": 4}),
    "ltx": ("LTXVideoTransformer3DModel", VIDEO | {"cross_attention_dim": 32, "caption_channels": 24}),
    "ltx2": (
        "LTX2VideoTransformer3DModel",
        VIDEO | {"cross_attention_dim": 32, "audio_in_channels": 4, "audio_out_channels": 4, "audio_num_attention_heads": 2,
                 "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16, "caption_channels": 24},
    ),
    "pixart": (
        "PixArtTransformer2DModel",
        VIDEO | {"out_channels": 8, "num_attention_heads": 3, "cross_attention_dim": 48, "sample_size": 8, "caption_channels": 24,
                 "use_additional_conditions": True},
    ),
    "sana": (
        "SanaTransformer2DModel",
        VIDEO | {"num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "cross_attention_dim": 32, "caption_channels": 24,
                 "sample_size": 8},
    ),
    "cogview4": (
        "CogView4Transformer2DModel",
        VIDEO | {"text_embed_dim": 24, "time_embed_dim": 20, "condition_dim": 8, "pos_embed_max_size": 8, "sample_size": 8,
                 "rope_axes_dim": (8, 8)},
    ),
    "glm-image": (
        "GlmImageTransformer2DModel",
        VIDEO | {"text_embed_dim": 24, "time_embed_dim": 20, "condition_dim": 8, "prior_vq_quantizer_codebook_size": 12},
    ),
    "omnigen": (
        "OmniGenTransformer2DModel",
        {"in_channels": 4, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 56, "num_layers": 2,
         "vocab_size": 40, "pad_token_id": 3, "pos_embed_max_size": 8, "time_step_dim": 16, "max_position_embeddings": 64,
         "rope_scaling": {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8}},
    ),
    "ernie-image": (
        "ErnieImageTransformer2DModel",
        {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 2, "ffn_hidden_size": 56, "in_channels": 4, "out_channels": 4,
         "text_in_dim": 24, "rope_axes_dim": (4, 4, 8)},
    ),
    "ideogram4": (
        "Ideogram4Transformer2DModel",
        {"in_channels": 4, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "intermediate_size": 56, "adaln_dim": 12,
         "llm_features_dim": 24, "mrope_section": (4, 2, 2)},
    ),
    "kandinsky5": (
        "Kandinsky5Transformer3DModel",
        {"in_text_dim": 24, "in_text_dim2": 20, "time_dim": 12, "model_dim": 32, "ff_dim": 56, "num_text_blocks": 1, "num_visual_blocks": 2,
         "axes_dims": (4, 4, 8)},
    ),
    "cogvideox": (
        "CogVideoXTransformer3DModel",
        VIDEO | {"time_embed_dim": 20, "text_embed_dim": 24, "sample_width": 8, "sample_height": 8, "sample_frames": 5,
                 "max_text_seq_length": 6, "use_rotary_positional_embeddings": True},
    ),
    "mochi": (
        "MochiTransformer3DModel",
        {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2, "pooled_projection_dim": 20, "in_channels": 4,
         "text_embed_dim": 24, "time_embed_dim": 16, "max_sequence_length": 6},
    ),
    "hunyuan-dit": (
        "HunyuanDiT2DModel",
        {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "patch_size": 2, "sample_size": 8, "hidden_size": 32,
         "num_layers": 4, "cross_attention_dim": 24, "cross_attention_dim_t5": 24, "pooled_projection_dim": 12, "text_len": 5,
         "text_len_t5": 6},
    ),
    "stable-cascade": (
        "StableCascadeUNet",
        {"in_channels": 4, "out_channels": 4, "timestep_ratio_embedding_dim": 16, "conditioning_dim": 32, "block_out_channels": (32, 32),
         "num_attention_heads": (2, 2), "down_num_layers_per_block": (1, 2), "up_num_layers_per_block": (2, 1), "clip_text_in_channels": 24,
         "clip_text_pooled_in_channels": 20, "clip_image_in_channels": 12, "switch_level": (False,)},
    ),
    "animatediff-motion": (
        "MotionAdapter",
        {"block_out_channels": (8, 16), "motion_layers_per_block": 2, "motion_num_attention_heads": 2, "motion_norm_num_groups": 4},
    ),
}  # fmt: skip
# of the same layers in other widths
LIKE = {"flux2-klein-9b": "flux2-klein-4b", "wan2.1-1.3b": "wan2.1-14b", "sana-0.6b": "sana"}
CLASSES |= {family: CLASSES[other] for family, other in LIKE.items()}
TINY = {family: told for family, told in CLASSES.items() if hasattr(diffusers, told[0])}  # what the installed diffusers has


def tiny(family: str) -> nn.Module:
    """Return a family's transformer with random weights, none of them zero."""
    name, sizes = TINY[family]
    return randomised(getattr(diffusers, name)(**sizes))


def tiny_motion_unet() -> nn.Module:
    """Return a UNet that runs AnimateDiff's motion modules."""
    names = {
        "down_block_types": ("DownBlockMotion", "CrossAttnDownBlockMotion"),
        "up_block_types": ("CrossAttnUpBlockMotion", "UpBlockMotion"),
    }
    motion = {"motion_num_attention_heads": 2, "num_attention_heads": 2, "use_motion_mid_block": True}
    return randomised(diffusers.UNetMotionModel(**(UNET | names | motion)))


def randomised(model: nn.Module) -> nn.Module:
    """Give a model random weights, and have it run."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.eval().parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    return model.requires_grad_(False)
