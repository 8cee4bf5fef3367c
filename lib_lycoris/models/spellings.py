"""How trainers spell a module: what may stand before its name, which component that means, what old versions wrote."""

from __future__ import annotations

import re

# Prefix of a module name in a file -> slot. Tried in this order; a longer prefix stands before its own beginning.
PREFIXES: tuple[tuple[str, str], ...] = (
    ("lora_unet_", "unet"),
    ("oft_unet_", "unet"),
    ("lora_transformer_", "unet"),
    ("model.diffusion_model.", "unet"),
    ("diffusion_model.", "unet"),
    ("unet.", "unet"),
    ("transformer.", "unet"),
    *((f"{kind}_te{number}_", f"te{number}") for kind in ("lora", "oft") for number in ("1", "2", "3", "")),
    ("text_encoder_2.", "te2"),
    ("text_encoder_3.", "te3"),
    ("text_encoder.", "te1"),
    *((f"{name}.transformer.", name) for name in ("clip_l", "clip_g", "clip_h", "t5xxl")),
)

# What may stand before a name that is otherwise one of the known styles.
_WRAPPERS = ("base_model.model.", "lycoris_", "text_encoders.", "cond_stage_model.", "conditioner.embedders.")

# Spellings of old diffusers versions; tried only after the name as it stands was not found.
_OLD = (
    (re.compile(r"(^|_)processor_"), r"\1"),
    (re.compile(r"_lora(_linear_layer)?$"), ""),
    (re.compile(r"self_attn_to_out(_0)?$"), "self_attn_out_proj"),
    (re.compile(r"self_attn_to_([qkv])$"), r"self_attn_\1_proj"),
    (re.compile(r"_to_out$"), "_to_out_0"),
    (re.compile(r"^(encoder_layers|embeddings|final_layer_norm)"), r"text_model_\1"),
)


def flat(name: str) -> str:
    """Write a dotted name as the flattened styles do."""
    return name.replace(".", "_")


def unwrap(name: str) -> str:
    """Take away what programs put before a name of a known style."""
    name = name.replace("_orig_mod.", "")
    while True:
        for wrapper in _WRAPPERS:
            if name.startswith(wrapper):
                name = name[len(wrapper) :]
                break
        else:
            return name


def modern(path: str) -> str:
    """Write a flattened path as today's programs do."""
    for pattern, replacement in _OLD:
        path = pattern.sub(replacement, path)
    return path


def without_spelling(name: str) -> str:
    """Return a module's name without what programs spell differently - wrappers, the prefix's style, dots - before any model is asked."""
    name = unwrap(name)
    for prefix, slot in PREFIXES:
        if name.startswith(prefix):
            return f"{slot}:{flat(name[len(prefix) :])}"
    return flat(name)
