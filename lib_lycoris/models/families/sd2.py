"""Stable Diffusion 2.x: the LDM UNet with linear projections and OpenCLIP-H."""

from ..family import Family, Generation, TextTower
from ..text_encoders import open_clip
from ..unet import SD_BLOCKS, UNetPlan, unet

FAMILY = Family(
    id="sd2",
    label="Stable Diffusion 2.x",
    short="SD2",
    components=(
        unet(UNetPlan(320, (1, 2, 4, 4), (1, 1, 1, 0), 1, 1024, True)),
        open_clip("model.", "lora_te", "te", "te1", "clip_h", d=1024, layers=24, key="te1", pipeline="text_encoder"),
    ),
    blocks=SD_BLOCKS,
    kohya_native=False,
    size=512,
    spellings=("stablediffusionv2", "sdv2", "sd20", "sd21", "sd2"),
    written={"ss_base_model_version": "sd_v2", "modelspec.architecture": "stable-diffusion-v2-768-v", "ss_v2": "True"},
    generation=Generation((TextTower("cond_stage_model.model.", True),), velocity_size=768),
    wider=("input_blocks.0.0",),
)
