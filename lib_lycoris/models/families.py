"""The base model families: their components (UNet and text encoders) and what files and hosts call them. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

UNET_PREFIX = "diffusion_model."


@dataclass(frozen=True)
class Component:
    """Describe one network of a pipeline and its names in every style."""

    key: str  # unet, te1, te2, te3
    prefix: str  # of canonical names
    style: str  # of canonical paths behind the prefix: unet, mmdit, flux, clip, open_clip, t5
    pipeline: str  # attribute of a diffusers pipeline
    kohya: str  # prefix of flattened names, without the last underscore


@dataclass(frozen=True)
class Family:
    """Describe a family; `slots` says which component a text encoder prefix of a file means."""

    label: str
    components: tuple[Component, ...]
    slots: Mapping[str, str]
    kohya_native: bool  # kohya's own names for the UNet are the LDM ones, not those of diffusers


def _clip(prefix: str, kohya: str) -> Component:
    return Component("te1", prefix, "clip", "text_encoder", kohya)


_UNET = Component("unet", UNET_PREFIX, "unet", "unet", "lora_unet")
_T5 = "t5xxl.transformer."

FAMILIES: Mapping[str, Family] = {
    "sd1": Family(
        "Stable Diffusion 1.x",
        (_UNET, _clip("transformer.", "lora_te")),
        {"te": "te1", "te1": "te1", "clip_l": "te1"},
        False,
    ),
    "sd2": Family(
        "Stable Diffusion 2.x",
        (_UNET, Component("te1", "model.", "open_clip", "text_encoder", "lora_te")),
        {"te": "te1", "te1": "te1", "clip_h": "te1"},
        False,
    ),
    "sdxl": Family(
        "Stable Diffusion XL",
        (
            _UNET,
            _clip("0.transformer.", "lora_te1"),
            Component("te2", "1.model.", "open_clip", "text_encoder_2", "lora_te2"),
        ),
        {"te": "te1", "te1": "te1", "te2": "te2", "clip_l": "te1", "clip_g": "te2"},
        True,
    ),
    # `te1` of an SDXL file is CLIP-L, which the refiner lacks: it must not land on the refiner's bigG.
    "sdxl-refiner": Family(
        "Stable Diffusion XL refiner",
        (_UNET, Component("te2", "0.model.", "open_clip", "text_encoder_2", "lora_te2")),
        {"te": "te2", "te2": "te2", "clip_g": "te2"},
        True,
    ),
    "sd3": Family(
        "Stable Diffusion 3",
        (
            Component("unet", UNET_PREFIX, "mmdit", "transformer", "lora_unet"),
            _clip("clip_l.transformer.", "lora_te1"),
            Component("te2", "clip_g.transformer.", "clip", "text_encoder_2", "lora_te2"),
            Component("te3", _T5, "t5", "text_encoder_3", "lora_te3"),
        ),
        {"te": "te1", "te1": "te1", "te2": "te2", "te3": "te3", "clip_l": "te1", "clip_g": "te2", "t5xxl": "te3"},
        True,
    ),
    # kohya calls T5 te3, OneTrainer and diffusers call it te2.
    "flux": Family(
        "Flux.1",
        (
            Component("unet", UNET_PREFIX, "flux", "transformer", "lora_unet"),
            _clip("clip_l.transformer.", "lora_te1"),
            Component("te3", _T5, "t5", "text_encoder_2", "lora_te3"),
        ),
        {"te": "te1", "te1": "te1", "te2": "te3", "te3": "te3", "clip_l": "te1", "t5xxl": "te3"},
        True,
    ),
}

# Prefix of a module name in a file -> slot. Tried in this order; a longer prefix stands before its own beginning.
FILE_PREFIXES: tuple[tuple[str, str], ...] = (
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
FILE_WRAPPERS = ("base_model.model.", "lycoris_", "text_encoders.", "cond_stage_model.", "conditioner.embedders.")
