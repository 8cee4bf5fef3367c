"""How trainers spell a module: what may stand before its name, which component that means, what old versions wrote."""

from __future__ import annotations

import re

ENCODERS = ("clip_l", "clip_g", "clip_h", "t5xxl", "t5", "qwen3_06b", "qwen3_4b", "qwen3_8b", "qwen25_7b", "gemma2_2b")

# Prefix of a module name in a file -> slot. Tried in this order; a longer prefix stands before its own beginning.
PREFIXES: tuple[tuple[str, str], ...] = (
    ("lora_unet__", "unet"),
    ("lora_unet_", "unet"),
    ("oft_unet_", "unet"),
    ("lora_transformer_", "unet"),
    ("model.diffusion_model_", "unet"),
    ("model.diffusion_model.", "unet"),
    ("diffusion_model_", "unet"),
    ("diffusion_model.", "unet"),
    ("unet.", "unet"),
    ("transformer.", "unet"),
    ("prior.", "unet"),
    *((f"{kind}_te{number}_", f"te{number}") for kind in ("lora", "oft") for number in ("1", "2", "3", "")),
    ("text_encoder_2.", "te2"),
    ("text_encoder_3.", "te3"),
    ("text_encoder.", "te1"),
    ("text_conditioner.", "llm_adapter"),
    *((f"{name}.{between}", name) for name in ENCODERS for between in ("transformer.", "model.", "")),
)

# What may stand before a name that is otherwise one of the known styles.
_WRAPPERS = ("base_model.model.", "lycoris_", "text_encoders.", "cond_stage_model.", "conditioner.embedders.", "module.", "pipe.dit.")
_WRAPPED = re.compile(f"(?:{'|'.join(map(re.escape, _WRAPPERS))})+")
_BEGINNING = re.compile("|".join(re.escape(prefix) for prefix, _ in PREFIXES))
_SLOTS = dict(PREFIXES)
_REPEATED = re.compile(r"^(unet|transformer|text_encoder(?:_[23])?)\.(?:base_model\.model\.|\1\.|module\.)+")

_COMPONENTS = ("unet.", "transformer.", "text_encoder")

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
    if wrapped := _WRAPPED.match(name):
        name = name[wrapped.end() :]
    return _REPEATED.sub(r"\1.", name) if name.startswith(_COMPONENTS) else name


def modern(path: str) -> str:
    """Write a flattened path as today's programs do."""
    for pattern, replacement in _OLD:
        path = pattern.sub(replacement, path)
    return path


# One adapter over several layers of an attention, which trainers fuse; the rest of the name is that of each of them.
_FUSED = (
    (re.compile(r"_to_qkv(?:_proj)?$"), ("_to_q", "_to_k", "_to_v")),
    (re.compile(r"_to_kv(?:_proj)?$"), ("_to_k", "_to_v")),
    (re.compile(r"_to_qk(?:_proj)?$"), ("_to_q", "_to_k")),
    (re.compile(r"_(?:to_added_qkv|add_qkv_proj|added_qkv)$"), ("_add_q_proj", "_add_k_proj", "_add_v_proj")),
    (re.compile(r"_attn_to_qkv_mlp(?:_proj)?$"), ("_attn_to_q", "_attn_to_k", "_attn_to_v", "_proj_mlp")),
    (re.compile(r"_qkv_proj$"), ("_q_proj", "_k_proj", "_v_proj")),
    (re.compile(r"_(?:in_proj|qkv)$"), ("_q_proj", "_k_proj", "_v_proj")),
    (re.compile(r"_attn_qkv$"), ("_attn_q", "_attn_k", "_attn_v")),
    (re.compile(r"_attn_qkv$"), ("_attn_wq", "_attn_wk", "_attn_wv")),
)


def fused_parts(path: str) -> list[tuple[str, ...]]:
    """Give the flattened names of the layers that one adapter over several of them may be for, one set for each way to read it."""
    return [tuple(pattern.sub(name, path) for name in names) for pattern, names in _FUSED if pattern.search(path)]


def split_prefix(name: str) -> tuple[str | None, str]:
    """Return what component a module's name begins with (None: it does not say) and the flattened rest."""
    name = unwrap(name)
    if begins := _BEGINNING.match(name):
        return _SLOTS[begins[0]], flat(name[begins.end() :])
    return None, flat(name)


def without_spelling(name: str) -> str:
    """Return a module's name without what programs spell differently - wrappers, the prefix's style, dots - before any model is asked."""
    slot, path = split_prefix(name)
    return path if slot is None else f"{slot}:{path}"
