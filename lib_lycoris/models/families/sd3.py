"""Stable Diffusion 3 medium, 3.5 medium and 3.5 large: a transformer of joint blocks, 64 wide for each of them."""

from ..family import Blocks, Family, transformer
from ..rows import ADDED_QKV, QKV, Rows, conv, fused, layer, linear, norm
from ..text_encoders import clip, t5

B, T = "joint_blocks.#", "transformer_blocks.#"


def layers(blocks: int = 24, dual: int = 0, grid: int = 192, norms: bool = True) -> Rows:
    """Yield the layers; dual: how many blocks have a second attention, grid: side of the position grid, norms: of queries and keys."""
    d, every, last = 64 * blocks, range(blocks), range(blocks - 1, blocks)
    yield conv("x_embedder.proj", d, 16, (2, 2), "pos_embed.proj")
    yield layer("Parameter", "pos_embed", (1, grid**2, d), "pos_embed.pos_embed", False)
    for name, other, in_ in (("t_embedder", "timestep_embedder", 256), ("y_embedder", "text_embedder", 2048)):
        yield linear(f"{name}.mlp.0", d, in_, f"time_text_embed.{other}.linear_1")
        yield linear(f"{name}.mlp.2", d, d, f"time_text_embed.{other}.linear_2")
    yield linear("context_embedder", d, 4096)
    yield from attention(f"{B}.context_block.attn", f"{T}.attn", d, norms, every, ADDED_QKV, "norm_added")
    # The last block only reads the text stream: no projection, no feed-forward, two modulations instead of six.
    yield linear(f"{B}.context_block.attn.proj", d, d, f"{T}.attn.to_add_out", times=every[:-1])
    yield from feed_forward(f"{B}.context_block.mlp", f"{T}.ff_context", d, every[:-1])
    yield linear(f"{B}.context_block.adaLN_modulation.1", 6 * d, d, f"{T}.norm1_context.linear", times=every[:-1])
    yield linear(f"{B}.context_block.adaLN_modulation.1", 2 * d, d, {f"{T}.norm1_context.linear": "swap"}, times=last)
    for number, which in (("", every), ("2", range(dual))):
        yield from attention(f"{B}.x_block.attn{number}", f"{T}.attn{number}", d, norms, which, QKV, "norm")
        yield linear(f"{B}.x_block.attn{number}.proj", d, d, f"{T}.attn{number}.to_out.0", times=which)
    yield from feed_forward(f"{B}.x_block.mlp", f"{T}.ff", d, every)
    yield linear(f"{B}.x_block.adaLN_modulation.1", 9 * d, d, f"{T}.norm1.linear", times=range(dual))
    yield linear(f"{B}.x_block.adaLN_modulation.1", 6 * d, d, f"{T}.norm1.linear", times=every[dual:])
    yield linear("final_layer.linear", 64, d, "proj_out")
    yield linear("final_layer.adaLN_modulation.1", 2 * d, d, {"norm_out.linear": "swap"})


def attention(own: str, other: str, d: int, norms: bool, times: range, names: tuple[str, ...], norm_name: str) -> Rows:
    """Yield the fused projection of one stream and its norms."""
    yield linear(f"{own}.qkv", 3 * d, d, fused(other, names), times=times)
    for letter in "qk" if norms else "":
        yield norm(f"{own}.ln_{letter}", 64, f"{other}.{norm_name}_{letter}", times=times)


def feed_forward(own: str, other: str, d: int, times: range) -> Rows:
    """Yield the two layers of a feed-forward."""
    yield linear(f"{own}.fc1", 4 * d, d, f"{other}.net.0.proj", times=times)
    yield linear(f"{own}.fc2", d, 4 * d, f"{other}.net.2", times=times)


FAMILY = Family(
    id="sd3",
    label="Stable Diffusion 3",
    short="SD3",
    components=(
        transformer(layers),
        clip("clip_l.transformer.", "lora_te1", "te", "te1", "clip_l", projection=768, block="CLIPL"),
        clip(
            "clip_g.transformer.", "lora_te2", "te2", "clip_g", d=1280, layers=32, projection=1280, key="te2", pipeline="text_encoder_2",
            block="CLIPG",
        ),
        t5("text_encoder_3", "te3", "t5xxl", "t5"),
    ),
    blocks=Blocks({"joint_blocks": "J"}),
    variants={"medium": {"norms": False}, "3.5-medium": {"dual": 13, "grid": 384}, "3.5-large": {"blocks": 38}},
    spellings=("stablediffusionv3", "stablediffusion3", "sd3"),
    written={"modelspec.architecture": "stable-diffusion-3-medium"},
)  # fmt: skip
