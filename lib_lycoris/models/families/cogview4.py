"""CogView4-6B: 28 blocks, 4096 wide.

Layers checked against diffusers' CogView4Transformer2DModel with the released configuration. All names are those of diffusers; files in
another style of this model have not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear

B = "transformer_blocks.#"


def joint_blocks(d: int, t: int, blocks: int) -> Rows:
    """Yield the blocks and the layers after them; d: width, t: of the embedding of time."""
    yield linear(f"{B}.norm1.linear", 12 * d, t, times=blocks)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield linear(f"{B}.attn1.{name}", d, d, times=blocks)
    yield linear(f"{B}.ff.net.0.proj", 4 * d, d, times=blocks)
    yield linear(f"{B}.ff.net.2", d, 4 * d, times=blocks)
    yield linear("norm_out.linear", 2 * d, t)
    yield linear("proj_out", 64, d)


def layers(d: int = 4096, t: int = 512, blocks: int = 28) -> Rows:
    """Yield the layers; d: width, t: of the embedding of time."""
    yield linear("patch_embed.proj", d, 64)
    yield linear("patch_embed.text_proj", d, d)
    yield linear("time_condition_embed.timestep_embedder.linear_1", t, d)
    yield linear("time_condition_embed.timestep_embedder.linear_2", t, t)
    yield linear("time_condition_embed.condition_embedder.linear_1", t, 1536)
    yield linear("time_condition_embed.condition_embedder.linear_2", t, t)
    yield from joint_blocks(d, t, blocks)


FAMILY = Family(
    id="cogview4",
    label="CogView4",
    short="CogView4",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "B"}, last=("proj_out", "norm_out")),
    spellings=("cogview4",),
    written={"modelspec.architecture": "cogview4"},
)
