"""Mochi 1: 48 blocks of a video stream, 3072 wide, and a text stream, 1536 wide.

Layers checked against diffusers' MochiTransformer3DModel. All names are those of diffusers; files in another style of this model have not
been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, conv, linear, norm

B = "transformer_blocks.#"


def layers(d: int = 3072, c: int = 1536, blocks: int = 48) -> Rows:
    """Yield the layers; d: width of the video stream, c: of the text."""
    yield conv("patch_embed.proj", d, 12, (2, 2))
    yield linear("time_embed.timestep_embedder.linear_1", d, 256)
    yield linear("time_embed.timestep_embedder.linear_2", d, d)
    yield linear("time_embed.pooler.to_kv", 8192, 4096)
    yield linear("time_embed.pooler.to_q", 4096, 4096)
    yield linear("time_embed.pooler.to_out", d, 4096)
    yield linear("time_embed.caption_proj", c, 4096)
    yield linear(f"{B}.norm1.linear", 4 * d, d, times=blocks)
    yield linear(f"{B}.norm1_context.linear", 2 * d, d, times=blocks - 1)
    for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        yield norm(f"{B}.attn1.{name}", 128, times=blocks)
    for name in ("to_q", "to_k", "to_v"):
        yield linear(f"{B}.attn1.{name}", d, d, bias=False, times=blocks)
    for name in ("add_k_proj", "add_v_proj", "add_q_proj"):
        yield linear(f"{B}.attn1.{name}", d, c, bias=False, times=blocks)
    yield linear(f"{B}.attn1.to_out.0", d, d, times=blocks)
    yield linear(f"{B}.attn1.to_add_out", c, d, times=blocks - 1)
    yield linear(f"{B}.ff.net.0.proj", 16384, d, bias=False, times=blocks)
    yield linear(f"{B}.ff.net.2", d, 8192, bias=False, times=blocks)
    yield linear(f"{B}.ff_context.net.0.proj", 8192, c, bias=False, times=blocks - 1)
    yield linear(f"{B}.ff_context.net.2", c, 4096, bias=False, times=blocks - 1)
    yield linear(f"{B}.norm1_context.linear_1", c, d, times=range(blocks - 1, blocks))
    yield linear("norm_out.linear", 2 * d, d)
    yield linear("proj_out", 48, d)


FAMILY = Family(
    id="mochi",
    label="Mochi 1",
    short="Mochi",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "B"}, last=("proj_out", "norm_out")),
    spellings=("mochi",),
    written={"modelspec.architecture": "mochi-1"},
)
