"""Kandinsky 5 Lite: 2 blocks for the text and 32 visual ones, 1792 wide.

Layers checked against diffusers' Kandinsky5Transformer3DModel; the released widths of Lite are not verified and Pro's are not declared.
All names are those of diffusers; files in another style of this model have not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear, norm

T = "text_transformer_blocks.#"
V = "visual_transformer_blocks.#"


def layers(d: int = 1792, t: int = 512, text: int = 2, blocks: int = 32) -> Rows:
    """Yield the layers; d: width, t: of the embedding of time."""
    yield linear("time_embeddings.in_layer", t, d)
    yield linear("time_embeddings.out_layer", t, t)
    yield linear("text_embeddings.in_layer", d, 2 * d)
    yield norm("text_embeddings.norm", d, bias=True)
    yield linear("pooled_text_embeddings.in_layer", t, 768)
    yield norm("pooled_text_embeddings.norm", t, bias=True)
    yield linear("visual_embeddings.in_layer", d, 16)
    yield linear(f"{T}.text_modulation.out_layer", 6 * d, t, times=text)
    for name in ("to_query", "to_key", "to_value"):
        yield linear(f"{T}.self_attention.{name}", d, d, times=text)
    for name in ("query_norm", "key_norm"):
        yield norm(f"{T}.self_attention.{name}", 64, times=text)
    yield linear(f"{T}.self_attention.out_layer", d, d, times=text)
    yield linear(f"{T}.feed_forward.in_layer", 4 * d, d, bias=False, times=text)
    yield linear(f"{T}.feed_forward.out_layer", d, 4 * d, bias=False, times=text)
    yield linear(f"{V}.visual_modulation.out_layer", 9 * d, t, times=blocks)
    for name in ("to_query", "to_key", "to_value"):
        yield linear(f"{V}.self_attention.{name}", d, d, times=blocks)
    for name in ("query_norm", "key_norm"):
        yield norm(f"{V}.self_attention.{name}", 64, times=blocks)
    for name in ("self_attention.out_layer", "cross_attention.to_query", "cross_attention.to_key", "cross_attention.to_value"):
        yield linear(f"{V}.{name}", d, d, times=blocks)
    for name in ("query_norm", "key_norm"):
        yield norm(f"{V}.cross_attention.{name}", 64, times=blocks)
    yield linear(f"{V}.cross_attention.out_layer", d, d, times=blocks)
    yield linear(f"{V}.feed_forward.in_layer", 4 * d, d, bias=False, times=blocks)
    yield linear(f"{V}.feed_forward.out_layer", d, 4 * d, bias=False, times=blocks)
    yield linear("out_layer.modulation.out_layer", 2 * d, t)
    yield linear("out_layer.out_layer", 16, d)


FAMILY = Family(
    id="kandinsky5",
    label="Kandinsky 5",
    short="Kandinsky 5",
    components=(transformer(layers),),
    blocks=Blocks({"text_transformer_blocks": "T", "visual_transformer_blocks": "V"}, last=("out_layer",)),
    spellings=("kandinsky5",),
    written={"modelspec.architecture": "kandinsky-5"},
)
