"""Stable Diffusion 1.x: the LDM UNet with CLIP-L."""

from ..family import Family, Generation, TextTower
from ..text_encoders import clip
from ..unet import SD_BLOCKS, UNetPlan, unet

FAMILY = Family(
    id="sd1",
    label="Stable Diffusion 1.x",
    short="SD1",
    components=(
        unet(UNetPlan(320, (1, 2, 4, 4), (1, 1, 1, 0), 1, 768, False)),
        clip("transformer.", "lora_te", "te", "te1", "clip_l"),
    ),
    blocks=SD_BLOCKS,
    kohya_native=False,
    size=512,
    spellings=("stablediffusionv1", "sdv1", "sd15", "sd1"),
    written={"ss_base_model_version": "sd_v1", "modelspec.architecture": "stable-diffusion-v1"},
    generation=Generation((TextTower("cond_stage_model.transformer.", False),), heads=8, penultimate=False),
    wider=("input_blocks.0.0",),
)
