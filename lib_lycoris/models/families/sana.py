"""Sana 1.6B and 0.6B: linear attention, feed-forwards of convolutions, 20 blocks of 2240 or 28 of 1152.

Layers checked against diffusers' SanaTransformer2DModel with both released configurations. All names are those of diffusers; files in
another style of this model have not been seen. Text encoders are not declared.
"""

from dataclasses import replace

from ..family import Blocks, Family, transformer
from ..rows import Rows, conv, linear, norm

B = "transformer_blocks.#"


def layers(d: int = 2240, blocks: int = 20) -> Rows:
    """Yield the layers; d: width."""
    yield conv("patch_embed.proj", d, 32, (1, 1))
    yield linear("time_embed.emb.timestep_embedder.linear_1", d, 256)
    yield linear("time_embed.emb.timestep_embedder.linear_2", d, d)
    yield linear("time_embed.linear", 6 * d, d)
    yield linear("caption_projection.linear_1", d, 2304)
    yield linear("caption_projection.linear_2", d, d)
    yield norm("caption_norm", d)
    for name in ("to_q", "to_k", "to_v"):
        yield linear(f"{B}.attn1.{name}", d, d, bias=False, times=blocks)
    for name in ("attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"):
        yield linear(f"{B}.{name}", d, d, times=blocks)
    yield conv(f"{B}.ff.conv_inverted", 5 * d, d, (1, 1), times=blocks)
    yield conv(f"{B}.ff.conv_depth", 5 * d, 1, (3, 3), times=blocks)
    yield conv(f"{B}.ff.conv_point", d, 5 * d // 2, (1, 1), bias=False, times=blocks)
    yield linear("proj_out", 32, d)


SANA = Family(
    id="sana",
    label="Sana 1.6B",
    short="Sana",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "B"}, last=("proj_out", "norm_out")),
    spellings=("sana",),
    written={"modelspec.architecture": "sana"},
)

FAMILIES = (SANA, replace(SANA, id="sana-0.6b", label="Sana 0.6B", variants={"": {"d": 1152, "blocks": 28}}))
