"""Stable Cascade, stage C (the prior): two levels of residual, timestep and attention blocks, 2048 wide.

Layers checked against diffusers' StableCascadeUNet with the prior's released configuration. All names are those of diffusers; original
files name the fused attention otherwise, and their order has not been verified. The text encoder is not declared.
"""

from ..family import UNET_PREFIX, Blocks, Component, Family
from ..naming import TableNames
from ..rows import Rows, conv, linear

DEPTHS = (8, 24)  # blocks of each level, on the way down


def layers(d: int = 2048) -> Rows:
    """Yield the layers; d: width of both levels."""
    yield linear("clip_txt_pooled_mapper", 4 * d, 1280)
    yield linear("clip_txt_mapper", d, 1280)
    yield linear("clip_img_mapper", 4 * d, 768)
    yield conv("embedding.1", d, 16, (1, 1))
    for level, depth in enumerate(DEPTHS):
        yield from blocks("down_blocks.#", d, depth, 0, range(level, level + 1))
    for level, depth in enumerate(reversed(DEPTHS)):
        yield from blocks("up_blocks.#", d, depth, d if level else 0, range(level, level + 1))
    yield conv("down_downscalers.1.1.blocks.0", d, d, (1, 1))
    yield conv("up_upscalers.0.1.blocks.1", d, d, (1, 1))
    yield conv("clf.1", 16, d, (1, 1))


def blocks(path: str, d: int, depth: int, skip: int, times: range) -> Rows:
    """Yield the blocks of one level; skip: width of what the first residual block gets from the way down."""
    for number in range(depth):
        residual, timestep, attention = (f"{path}.{3 * number + offset}" for offset in range(3))
        yield conv(f"{residual}.depthwise", d, 1, (3, 3), times=times)
        yield linear(f"{residual}.channelwise.0", 4 * d, d + (0 if number else skip), times=times)
        yield linear(f"{residual}.channelwise.4", d, 4 * d, times=times)
        for name in ("mapper", "mapper_sca", "mapper_crp"):
            yield linear(f"{timestep}.{name}", 2 * d, 64, times=times)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            yield linear(f"{attention}.attention.{name}", d, d, times=times)
        yield linear(f"{attention}.kv_mapper.1", d, d, times=times)


FAMILY = Family(
    id="stable-cascade",
    label="Stable Cascade",
    short="Cascade",
    components=(Component("unet", UNET_PREFIX, "prior", "lora_unet", layers, TableNames),),
    blocks=Blocks({"down_blocks": "D", "up_blocks": "U"}, last=("clf",)),
    spellings=("stablecascade", "wuerstchen"),
    written={"modelspec.architecture": "stable-cascade-v1-prior"},
)
