"""HunyuanVideo (and FramePack), HunyuanImage 2.1 and HunyuanVideo 1.5: double and single blocks of the same layers in other widths.

Layers checked against diffusers' HunyuanVideoTransformer3DModel, HunyuanImageTransformer2DModel and HunyuanVideo15Transformer3DModel. The
fused q, k, v and the swapped halves of the last modulation are as diffusers' conversion reads them; where the released files of the last
two keep q, k and v apart, ComfyUI's layers are the canonical ones. Text encoders are not declared: no trainer is known that writes adapters
for them.
"""

from dataclasses import replace
from typing import Any

from ..family import Blocks, Family, transformer
from ..rows import ADDED_QKV, QKV, Rows, conv, fused, layer, linear, norm

D, S, R = "double_blocks.#", "single_blocks.#", "txt_in.individual_token_refiner.blocks.#"
T, U, V = "transformer_blocks.#", "single_transformer_blocks.#", "context_embedder.token_refiner.refiner_blocks.#"
STREAMS = (("img", QKV, "to_out.0", "", "norm"), ("txt", ADDED_QKV, "to_add_out", "_context", "norm_added"))
TEXT_TIME = "context_embedder.time_text_embed"


def layers(
    d: int = 3072,
    double: int = 20,
    single: int = 40,
    latent: int = 16,
    patch: tuple[int, ...] = (1, 2, 2),
    text: int = 4096,
    out: int = 64,
    time: str = "time_text_embed",
    pooled: bool = True,
    picture: bool = False,
) -> Rows:
    """Yield the layers; d: width, latent: channels, text: width of the text encoder.

    pooled: with pooled text and guidance, else with glyphs as a second text; picture: with features of an image.
    """
    yield conv("img_in.proj", d, latent, patch, "x_embedder.proj")
    yield from embedding("time_in.mlp.0", "time_in.mlp.2", f"{time}.timestep_embedder", d, 256)
    if pooled:
        yield from embedding("vector_in.in_layer", "vector_in.out_layer", f"{time}.text_embedder", d, 768)
        yield from embedding("guidance_in.mlp.0", "guidance_in.mlp.2", f"{time}.guidance_embedder", d, 256)
    else:
        yield from glyphs(d)
    if picture:
        yield from picture_embedder(d)
    yield from refiner(d, text)
    for stream, names, projection, suffix, norms in STREAMS:
        own = f"{D}.{stream}"
        yield linear(f"{own}_mod.linear", 6 * d, d, f"{T}.norm1{suffix}.linear", times=double)
        yield linear(f"{own}_attn_qkv", 3 * d, d, fused(f"{T}.attn", names), times=double)
        yield norm(f"{own}_attn_q_norm", 128, f"{T}.attn.{norms}_q", times=double)
        yield norm(f"{own}_attn_k_norm", 128, f"{T}.attn.{norms}_k", times=double)
        yield linear(f"{own}_attn_proj", d, d, f"{T}.attn.{projection}", times=double)
        yield linear(f"{own}_mlp.fc1", 4 * d, d, f"{T}.ff{suffix}.net.0.proj", times=double)
        yield linear(f"{own}_mlp.fc2", d, 4 * d, f"{T}.ff{suffix}.net.2", times=double)
    if single:
        yield from single_blocks(d, single)
    yield linear("final_layer.adaLN_modulation.1", 2 * d, d, {"norm_out.linear": "swap"})
    yield linear("final_layer.linear", out, d, "proj_out")


def embedding(first: str, second: str, other: str, d: int, in_: int) -> Rows:
    """Yield the two layers of an embedding."""
    yield linear(first, d, in_, f"{other}.linear_1")
    yield linear(second, d, d, f"{other}.linear_2")


def glyphs(d: int, text: int = 1472, hidden: int = 2048) -> Rows:
    """Yield the embedding of the glyphs' text, which ByT5 reads."""
    yield norm("byt5_in.layernorm", text, "context_embedder_2.norm", True)
    for number, (out, in_) in enumerate(((hidden, text), (hidden, hidden), (d, hidden)), 1):
        yield linear(f"byt5_in.fc{number}", out, in_, f"context_embedder_2.linear_{number}")


def picture_embedder(d: int, features: int = 1152) -> Rows:
    """Yield the embedding of an image's features and of the three kinds of conditions."""
    yield norm("vision_in.proj.0", features, "image_embedder.norm_in", True)
    yield linear("vision_in.proj.1", features, features, "image_embedder.linear_1")
    yield linear("vision_in.proj.3", d, features, "image_embedder.linear_2")
    yield norm("vision_in.proj.4", d, "image_embedder.norm_out", True)
    yield layer("Embedding", "cond_type_embedding", (3, d), "cond_type_embed", False)


def refiner(d: int, text: int) -> Rows:
    """Yield the embedding of the text: a projection and two blocks."""
    yield linear("txt_in.input_embedder", d, text, "context_embedder.proj_in")
    yield from embedding("txt_in.t_embedder.mlp.0", "txt_in.t_embedder.mlp.2", f"{TEXT_TIME}.timestep_embedder", d, 256)
    yield from embedding("txt_in.c_embedder.linear_1", "txt_in.c_embedder.linear_2", f"{TEXT_TIME}.text_embedder", d, text)
    for name in ("norm1", "norm2"):
        yield norm(f"{R}.{name}", d, f"{V}.{name}", bias=True, times=2)
    yield linear(f"{R}.self_attn_qkv", 3 * d, d, fused(f"{V}.attn", QKV), times=2)
    yield linear(f"{R}.self_attn_proj", d, d, f"{V}.attn.to_out.0", times=2)
    yield linear(f"{R}.mlp.fc1", 4 * d, d, f"{V}.ff.net.0.proj", times=2)
    yield linear(f"{R}.mlp.fc2", d, 4 * d, f"{V}.ff.net.2", times=2)
    yield linear(f"{R}.adaLN_modulation.1", 2 * d, d, f"{V}.norm_out.linear", times=2)


def single_blocks(d: int, times: int) -> Rows:
    """Yield the blocks that all tokens go through together."""
    yield linear(f"{S}.linear1", 7 * d, d, fused(f"{U}.attn", QKV) | {f"{U}.proj_mlp": "mlp"}, times=times)
    yield linear(f"{S}.linear2", d, 5 * d, f"{U}.proj_out", times=times)
    for letter in "qk":
        yield norm(f"{S}.{letter}_norm", 128, f"{U}.attn.norm_{letter}", times=times)
    yield linear(f"{S}.modulation.linear", 3 * d, d, f"{U}.norm.linear", times=times)


# The released files of HunyuanImage and HunyuanVideo 1.5 keep apart what the layers above have together.
APART = {
    **{f"{D}.{stream}_attn_{letter}": f"{D}.{stream}_attn_qkv[{letter}]" for stream in ("img", "txt") for letter in "qkv"},
    **{f"{R}.self_attn_{letter}": f"{R}.self_attn_qkv[{letter}]" for letter in "qkv"},
}
SINGLE_APART = {f"{S}.linear1_{part}": f"{S}.linear1[{part}]" for part in ("q", "k", "v", "mlp")}

VIDEO = Family(
    id="hunyuan-video",
    label="HunyuanVideo",
    short="HunyuanVideo",
    components=(transformer(layers),),
    blocks=Blocks({"double_blocks": "D", "single_blocks": "S"}),
    spellings=("hunyuanvideo", "framepack"),
    written={"modelspec.architecture": "hunyuan-video"},
    wider=("img_in.proj",),
)
IMAGE_SIZES: dict[str, Any] = {"d": 3584, "latent": 64, "patch": (1, 1), "text": 3584, "time": "time_guidance_embed", "pooled": False}
IMAGE = replace(
    VIDEO,
    id="hunyuan-image-2.1",
    label="HunyuanImage 2.1",
    short="HunyuanImage",
    components=(transformer(layers, APART | SINGLE_APART),),
    variants={"": IMAGE_SIZES},
    size=2048,
    spellings=("hunyuanimage",),
    written={"modelspec.architecture": "hunyuan-image-2.1"},
    wider=(),
)
VIDEO_15_SIZES: dict[str, Any] = {
    "d": 2048, "double": 54, "single": 0, "latent": 65, "patch": (1, 1, 1), "text": 3584, "out": 32, "time": "time_embed", "pooled": False,
    "picture": True,
}  # fmt: skip
VIDEO_15 = replace(
    VIDEO,
    id="hunyuan-video-1.5",
    label="HunyuanVideo 1.5",
    short="HunyuanVideo 1.5",
    components=(transformer(layers, APART),),
    variants={"": VIDEO_15_SIZES},
    spellings=("hunyuanvideo15",),
    written={"modelspec.architecture": "hunyuan-video-1.5"},
)
FAMILIES = (VIDEO, IMAGE, VIDEO_15)
