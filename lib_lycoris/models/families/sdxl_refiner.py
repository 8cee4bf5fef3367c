"""The refiner of Stable Diffusion XL: a wider LDM UNet with OpenCLIP bigG alone."""

from dataclasses import replace

from ..family import Family
from ..text_encoders import open_clip
from ..unet import SD_BLOCKS, UNetPlan, unet

FAMILY = Family(
    id="sdxl-refiner",
    label="Stable Diffusion XL refiner",
    short="SDXL",
    components=(
        unet(UNetPlan(384, (1, 2, 4, 4), (0, 4, 4, 0), 4, 1280, True, 2560)),
        # `te1` of an SDXL file is CLIP-L, which the refiner lacks: it must not land on the refiner's bigG.
        open_clip("0.model.", "lora_te2", "te", "te2", "clip_g", d=1280, layers=32, key="te2", pipeline="text_encoder_2"),
    ),
    blocks=replace(SD_BLOCKS, counts=(26,)),
    spellings=("stablediffusionxlv1refiner", "sdxlrefiner"),
    written={"modelspec.architecture": "stable-diffusion-xl-v1-refiner"},
    wider=("input_blocks.0.0",),
)
