"""OmniGen: the layers of a Phi-3, 32 blocks, 3072 wide.

Layers checked against diffusers' OmniGenTransformer2DModel. All names are those of diffusers; files in another style of this model have
not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, conv, layer, linear, norm

B = "layers.#"


def layers(d: int = 3072, f: int = 8192, blocks: int = 32) -> Rows:
    """Yield the layers; d: width, f: of the feed-forward."""
    for name in ("output_image_proj", "input_image_proj"):
        yield conv(f"patch_embedding.{name}", d, 4, (2, 2))
    yield linear("time_token.linear_1", d, 256)
    yield linear("time_token.linear_2", d, d)
    yield linear("t_embedder.linear_1", d, 256)
    yield linear("t_embedder.linear_2", d, d)
    yield layer("Embedding", "embed_tokens", (32064, d), bias=False)
    yield norm(f"{B}.input_layernorm", d, times=blocks)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield linear(f"{B}.self_attn.{name}", d, d, bias=False, times=blocks)
    yield norm(f"{B}.post_attention_layernorm", d, times=blocks)
    yield linear(f"{B}.mlp.gate_up_proj", 16384, d, bias=False, times=blocks)
    yield linear(f"{B}.mlp.down_proj", d, f, bias=False, times=blocks)
    yield norm("norm", d)
    yield linear("norm_out.linear", 2 * d, d)
    yield linear("proj_out", 16, d)


FAMILY = Family(
    id="omnigen",
    label="OmniGen",
    short="OmniGen",
    components=(transformer(layers),),
    blocks=Blocks({"layers": "B"}, last=("proj_out", "norm_out")),
    spellings=("omnigen",),
    written={"modelspec.architecture": "omnigen"},
)
