"""PiD, a decoder that makes pixels by diffusion: a PixelDiT of 14 joint and 2 pixel blocks with a branch for the latent image.

Layers taken from ComfyUI's PidNet with the defaults of the class; diffusers has none. The released weights and networks of it have not been
seen. The text encoder (Gemma 2) is not declared.
Data, tested without the class: its own code is in no package.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, conv, linear, norm

JOINT, PIXEL = "patch_blocks.#", "pixel_blocks.#"


def layers(d: int = 1536, blocks: int = 14, p: int = 16, a: int = 1152) -> Rows:
    """Yield the layers; d: width, p: of a pixel, of which a patch has 16 x 16, a: of the attention between patches."""
    yield linear("pixel_embedder.proj", p, 3)
    yield linear("s_embedder.proj", d, 768)
    yield linear("t_embedder.mlp.0", d, 256)
    yield linear("t_embedder.mlp.2", d, d)
    yield linear("y_embedder.proj", d, 2304)
    yield norm("y_embedder.norm", d)
    yield from _joint(d, blocks)
    yield from _pixel(d, p, a)
    yield norm("final_layer.norm", p)
    yield linear("final_layer.linear", 3, p)
    yield from _latent(d, 512, 4, 7)


def _joint(d: int, blocks: int) -> Rows:
    for stream in ("x", "y"):
        for number in (1, 2):
            yield norm(f"{JOINT}.norm_{stream}{number}", d, times=blocks)
        yield linear(f"{JOINT}.attn.qkv_{stream}", 3 * d, d, bias=False, times=blocks)
        for name in ("q_norm", "k_norm"):
            yield norm(f"{JOINT}.attn.{name}_{stream}", 64, times=blocks)
        yield linear(f"{JOINT}.attn.proj_{stream}", d, d, times=blocks)
        for name, out, in_ in (("w1", 4096, d), ("w2", d, 4096), ("w3", 4096, d)):
            yield linear(f"{JOINT}.mlp_{stream}.{name}", out, in_, bias=False, times=blocks)
    for name in ("img", "txt"):
        yield linear(f"{JOINT}.adaLN_modulation_{name}.0", 6 * d, d, times=blocks)


def _pixel(d: int, p: int, a: int) -> Rows:
    patch = 256 * p
    yield linear(f"{PIXEL}.compress_to_attn", a, patch, times=2)
    yield linear(f"{PIXEL}.expand_from_attn", patch, a, times=2)
    yield linear(f"{PIXEL}.attn.qkv", 3 * a, a, bias=False, times=2)
    yield linear(f"{PIXEL}.attn.proj", a, a, times=2)
    yield linear(f"{PIXEL}.mlp.fc1", 4 * p, p, times=2)
    yield linear(f"{PIXEL}.mlp.fc2", p, 4 * p, times=2)
    for name, width in (("norm1", p), ("norm2", p), ("attn.q_norm", 72), ("attn.k_norm", 72)):
        yield norm(f"{PIXEL}.{name}", width, times=2)
    for name in ("msa", "mlp"):
        yield linear(f"{PIXEL}.adaLN_modulation_{name}", 3 * patch, d, times=2)


def _latent(d: int, width: int, residuals: int, outputs: int) -> Rows:
    yield conv("lq_proj.latent_proj.0", width, 16, (3, 3))
    yield conv("lq_proj.latent_proj.2", width, width, (3, 3))
    for number in range(3, 3 + residuals):
        for place in (0, 3):
            yield norm(f"lq_proj.latent_proj.{number}.block.{place}", width, bias=True)
        for place in (2, 5):
            yield conv(f"lq_proj.latent_proj.{number}.block.{place}", width, width, (3, 3))
    yield linear("lq_proj.output_heads.#", d, width, times=outputs)
    yield linear("lq_proj.gate_modules.#.content_proj", d, 2 * d, times=outputs)


FAMILY = Family(
    id="pid",
    label="PiD",
    short="PiD",
    components=(transformer(layers),),
    blocks=Blocks({"patch_blocks": "B", "pixel_blocks": "P"}),
    spellings=("pixeldit", "pidnet"),
    written={"modelspec.architecture": "pidnet"},
)
