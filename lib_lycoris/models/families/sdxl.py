"""Stable Diffusion XL (Pony, Illustrious, NoobAI, Playground too): the LDM UNet with CLIP-L and OpenCLIP bigG.

Kolors has a UNet of the same layers, but for one input of its conditions; SSD-1B and Segmind-Vega have some of them. Their networks are
read as SDXL's, and SDXL's go on their layers with "n of m layers".
"""

from ..family import Family, Generation, TextTower
from ..text_encoders import clip, open_clip
from ..unet import SDXL_BLOCKS, UNetPlan, unet

FAMILY = Family(
    id="sdxl",
    label="Stable Diffusion XL",
    short="SDXL",
    components=(
        unet(UNetPlan(320, (1, 2, 4), (0, 2, 10), 10, 2048, True, 2816)),
        clip("0.transformer.", "lora_te1", "te", "te1", "clip_l"),
        open_clip("1.model.", "lora_te2", "te2", "clip_g", d=1280, layers=32, key="te2", pipeline="text_encoder_2"),
    ),
    blocks=SDXL_BLOCKS,
    spellings=("stablediffusionxl", "sdxl", "ponyv6", "illustrious", "noobai", "kolors", "ssd1b", "segmindvega"),
    written={"ss_base_model_version": "sdxl_base_v1-0", "modelspec.architecture": "stable-diffusion-xl-v1-base"},
    generation=Generation(
        (TextTower("conditioner.embedders.0.transformer.", False), TextTower("conditioner.embedders.1.model.", True)),
        latent_scale=0.13025,
        autoencoder_size=1024,
    ),
    wider=("input_blocks.0.0",),
)
