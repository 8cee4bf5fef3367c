"""AnimateDiff's motion modules (v1, v2, v3) for Stable Diffusion 1: what motion LoRAs change.

They lie in the UNet's blocks, and no webui's UNet has them by itself: a motion LoRA is recognised and refused by its name on a plain model.
Layers checked against diffusers' MotionAdapter; the module of the middle block (v2 only) is declared too.
"""

from ..family import UNET_PREFIX, Blocks, Component, Family
from ..naming import TableNames
from ..rows import Rows, linear, norm

WIDTHS = (320, 640, 1280, 1280)


def layers() -> Rows:
    """Yield the layers of the modules in all blocks."""
    for number, d in enumerate(WIDTHS):
        for module in range(2):
            yield from motion_module(f"down_blocks.#.motion_modules.{module}", d, range(number, number + 1))
    yield from motion_module("mid_block.motion_modules.0", WIDTHS[-1])
    for number, d in enumerate(reversed(WIDTHS)):
        for module in range(3):
            yield from motion_module(f"up_blocks.#.motion_modules.{module}", d, range(number, number + 1))


def motion_module(path: str, d: int, times: range = range(0)) -> Rows:
    """Yield the layers of one module; d: width of the block that it is in."""
    own, block, other = f"{path}.temporal_transformer", f"{path}.temporal_transformer.transformer_blocks.0", f"{path}.transformer_blocks.0"
    yield norm(f"{own}.norm", d, f"{path}.norm", True, times)
    yield linear(f"{own}.proj_in", d, d, f"{path}.proj_in", times=times)
    for number in range(2):
        attention, theirs = f"{block}.attention_blocks.{number}", f"{other}.attn{number + 1}"
        yield norm(f"{block}.norms.{number}", d, f"{other}.norm{number + 1}", True, times)
        for name in ("to_q", "to_k", "to_v"):
            yield linear(f"{attention}.{name}", d, d, f"{theirs}.{name}", False, times)
        yield linear(f"{attention}.to_out.0", d, d, f"{theirs}.to_out.0", times=times)
    yield norm(f"{block}.ff_norm", d, f"{other}.norm3", True, times)
    yield linear(f"{block}.ff.net.0.proj", 8 * d, d, f"{other}.ff.net.0.proj", times=times)
    yield linear(f"{block}.ff.net.2", d, 4 * d, f"{other}.ff.net.2", times=times)
    yield linear(f"{own}.proj_out", d, d, f"{path}.proj_out", times=times)


FAMILY = Family(
    id="animatediff-motion",
    label="AnimateDiff motion module",
    short="AnimateDiff",
    components=(Component("unet", UNET_PREFIX, "unet", "lora_unet", layers, TableNames),),
    blocks=Blocks({"down_blocks": "D", "up_blocks": "U"}, last=(), first="M00"),
    size=512,
    spellings=("animatediff",),
    written={"modelspec.architecture": "animatediff-motion"},
)
