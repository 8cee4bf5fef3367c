"""CogVideoX 5B and 2B: 42 blocks of 3072, 30 blocks of 1920.

Layers checked against diffusers' CogVideoXTransformer3DModel with both released configurations. All names are those of diffusers; files
in another style of this model have not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, conv, linear, norm

B = "transformer_blocks.#"


def layers(d: int = 3072, t: int = 512, blocks: int = 42) -> Rows:
    """Yield the layers; d: width, t: of the embedding of time."""
    yield conv("patch_embed.proj", d, 16, (2, 2))
    yield linear("patch_embed.text_proj", d, 4096)
    yield linear("time_embedding.linear_1", t, d)
    yield linear("time_embedding.linear_2", t, t)
    yield linear(f"{B}.norm1.linear", 6 * d, t, times=blocks)
    yield norm(f"{B}.norm1.norm", d, bias=True, times=blocks)
    for name in ("norm_q", "norm_k"):
        yield norm(f"{B}.attn1.{name}", 64, bias=True, times=blocks)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield linear(f"{B}.attn1.{name}", d, d, times=blocks)
    yield linear(f"{B}.norm2.linear", 6 * d, t, times=blocks)
    yield norm(f"{B}.norm2.norm", d, bias=True, times=blocks)
    yield linear(f"{B}.ff.net.0.proj", 4 * d, d, times=blocks)
    yield linear(f"{B}.ff.net.2", d, 4 * d, times=blocks)
    yield norm("norm_final", d, bias=True)
    yield linear("norm_out.linear", 2 * d, t)
    yield norm("norm_out.norm", d, bias=True)
    yield linear("proj_out", 64, d)


FAMILY = Family(
    id="cogvideox",
    label="CogVideoX",
    short="CogVideoX",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "B"}, last=("proj_out", "norm_out")),
    variants={"5b": {}, "2b": {"d": 1920, "blocks": 30}},
    spellings=("cogvideox",),
    written={"modelspec.architecture": "cogvideox-5b"},
)
