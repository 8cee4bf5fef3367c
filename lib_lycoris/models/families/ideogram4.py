"""Ideogram 4: 34 blocks, 4608 wide.

Layers checked against diffusers' Ideogram4Transformer2DModel with the defaults of the class. All names are those of diffusers; files in
another style of this model have not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, layer, linear, norm

B = "layers.#"


def layers(d: int = 4608, f: int = 12288, blocks: int = 34) -> Rows:
    """Yield the layers; d: width, f: of the feed-forward."""
    yield linear("input_proj", d, 128)
    yield norm("llm_cond_norm", 53248)
    yield linear("llm_cond_proj", d, 53248)
    for name in ("mlp_in", "mlp_out"):
        yield linear(f"t_embedding.{name}", d, d)
    yield linear("adaln_proj", 512, d)
    yield layer("Embedding", "embed_image_indicator", (2, d), bias=False)
    for name in ("to_q", "to_k", "to_v"):
        yield linear(f"{B}.attention.{name}", d, d, bias=False, times=blocks)
    for name in ("norm_q", "norm_k"):
        yield norm(f"{B}.attention.{name}", 256, times=blocks)
    yield linear(f"{B}.attention.to_out.0", d, d, bias=False, times=blocks)
    yield linear(f"{B}.feed_forward.w1", f, d, bias=False, times=blocks)
    yield linear(f"{B}.feed_forward.w2", d, f, bias=False, times=blocks)
    yield linear(f"{B}.feed_forward.w3", f, d, bias=False, times=blocks)
    for name in ("attention_norm1", "ffn_norm1", "attention_norm2", "ffn_norm2"):
        yield norm(f"{B}.{name}", d, times=blocks)
    yield linear(f"{B}.adaln_modulation", 4 * d, 512, times=blocks)
    yield linear("final_layer.linear", 128, d)
    yield linear("final_layer.adaln_modulation", d, 512)


FAMILY = Family(
    id="ideogram4",
    label="Ideogram 4",
    short="Ideogram 4",
    components=(transformer(layers),),
    blocks=Blocks({"layers": "B"}),
    spellings=("ideogram",),
    written={"modelspec.architecture": "ideogram-4"},
)
