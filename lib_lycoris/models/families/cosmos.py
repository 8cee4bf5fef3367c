"""Cosmos 1.0 7B: 28 blocks, 4096 wide.

Layers checked against diffusers' CosmosTransformer3DModel with the defaults of the class. All names are those of diffusers; files in
another style of this model have not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear, norm

B = "transformer_blocks.#"


def layers(d: int = 4096, blocks: int = 28) -> Rows:
    """Yield the layers; d: width."""
    yield linear("patch_embed.proj", d, 68, bias=False)
    yield linear("time_embed.t_embedder.linear_1", d, d, bias=False)
    yield linear("time_embed.t_embedder.linear_2", 3 * d, d, bias=False)
    yield norm("time_embed.norm", d)
    yield linear(f"{B}.norm1.linear_1", 256, d, bias=False, times=blocks)
    yield linear(f"{B}.norm1.linear_2", 3 * d, 256, bias=False, times=blocks)
    for name in ("norm_q", "norm_k"):
        yield norm(f"{B}.attn1.{name}", 128, times=blocks)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield linear(f"{B}.attn1.{name}", d, d, bias=False, times=blocks)
    yield linear(f"{B}.norm2.linear_1", 256, d, bias=False, times=blocks)
    yield linear(f"{B}.norm2.linear_2", 3 * d, 256, bias=False, times=blocks)
    for name in ("norm_q", "norm_k"):
        yield norm(f"{B}.attn2.{name}", 128, times=blocks)
    yield linear(f"{B}.attn2.to_q", d, d, bias=False, times=blocks)
    for name in ("to_k", "to_v"):
        yield linear(f"{B}.attn2.{name}", d, 1024, bias=False, times=blocks)
    yield linear(f"{B}.attn2.to_out.0", d, d, bias=False, times=blocks)
    yield linear(f"{B}.norm3.linear_1", 256, d, bias=False, times=blocks)
    yield linear(f"{B}.norm3.linear_2", 3 * d, 256, bias=False, times=blocks)
    yield linear(f"{B}.ff.net.0.proj", 4 * d, d, bias=False, times=blocks)
    yield linear(f"{B}.ff.net.2", d, 4 * d, bias=False, times=blocks)
    yield linear("norm_out.linear_1", 256, d, bias=False)
    yield linear("norm_out.linear_2", 2 * d, 256, bias=False)
    yield linear("proj_out", 64, d, bias=False)


FAMILY = Family(
    id="cosmos-7b",
    label="Cosmos 1.0 7B",
    short="Cosmos",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "B"}, last=("proj_out", "norm_out")),
    spellings=("cosmos",),
    written={"modelspec.architecture": "cosmos-7b"},
)
