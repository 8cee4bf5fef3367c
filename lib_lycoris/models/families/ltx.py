"""LTX-Video 0.9: 28 blocks, 2048 wide.

Layers checked against diffusers' LTXVideoTransformer3DModel. The 13B model has other widths and is not declared. T5 is not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear, norm

B = "transformer_blocks.#"


def layers(d: int = 2048, blocks: int = 28) -> Rows:
    """Yield the layers; d: width."""
    yield linear("patchify_proj", d, 128, "proj_in")
    yield linear("adaln_single.emb.timestep_embedder.linear_1", d, 256, "time_embed.emb.timestep_embedder.linear_1")
    yield linear("adaln_single.emb.timestep_embedder.linear_2", d, d, "time_embed.emb.timestep_embedder.linear_2")
    yield linear("adaln_single.linear", 6 * d, d, "time_embed.linear")
    yield linear("caption_projection.linear_1", d, 2 * d)
    yield linear("caption_projection.linear_2", d, d)
    yield norm(f"{B}.attn1.q_norm", d, f"{B}.attn1.norm_q", times=blocks)
    yield norm(f"{B}.attn1.k_norm", d, f"{B}.attn1.norm_k", times=blocks)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield linear(f"{B}.attn1.{name}", d, d, times=blocks)
    yield norm(f"{B}.attn2.q_norm", d, f"{B}.attn2.norm_q", times=blocks)
    yield norm(f"{B}.attn2.k_norm", d, f"{B}.attn2.norm_k", times=blocks)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield linear(f"{B}.attn2.{name}", d, d, times=blocks)
    yield linear(f"{B}.ff.net.0.proj", 4 * d, d, times=blocks)
    yield linear(f"{B}.ff.net.2", d, 4 * d, times=blocks)
    yield linear("proj_out", 128, d)


FAMILY = Family(
    id="ltx",
    label="LTX-Video",
    short="LTX",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "B"}, last=("proj_out",)),
    spellings=(
        "ltxvideo",
        "ltxv",
        "ltx",
    ),
    written={"modelspec.architecture": "ltx-video"},
)
