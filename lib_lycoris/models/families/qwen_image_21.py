"""Qwen-Image 2.1: one stream, a gated feed-forward that the original keeps in one layer. Checked against QwenImage21Transformer2DModel.

The original's names are known from converters only: `img_mlp.gate_up` holds the gate's rows first. Its text encoder has no networks yet.
Diffusers has the class since 0.42: data, tested without the class.
"""

from ..family import Blocks, Family, transformer
from ..rows import HALVES, QKV, Rows, fused, linear, norm

B = "transformer_blocks.#"


def layers(d: int = 4096, blocks: int = 32) -> Rows:
    """Yield the layers."""
    yield linear("time_text_embed.timestep_embedder.linear_1", d, 256, bias=False)
    yield linear("time_text_embed.timestep_embedder.linear_2", d, d, bias=False)
    yield norm("txt_in.text_norm", d)
    yield linear("txt_in.in_layer", d, d, bias=False)
    yield linear("txt_in.out_layer", d, d, bias=False)
    yield linear("img_in", d, 64, bias=False)
    yield linear("modulation.1", 4 * d, d, bias=False)
    for name in (*QKV, "to_out.0"):
        yield linear(f"{B}.attn.{name}", d, d, bias=False, times=blocks)
    for name in ("norm_q", "norm_k"):
        yield norm(f"{B}.attn.{name}", 128, times=blocks)
    yield linear(f"{B}.img_mlp.gate_up", 6 * d, d, fused(f"{B}.img_mlp", ("gate_layer", "proj"), HALVES), False, blocks)
    yield linear(f"{B}.img_mlp.out", d, 3 * d, bias=False, times=blocks)
    yield linear("norm_out.linear", d, d, bias=False)
    yield linear("proj_out", 64, d, bias=False)


FAMILY = Family(
    id="qwen-image-2.1",
    label="Qwen-Image 2.1",
    short="Qwen-Image",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "T"}, last=("norm_out", "proj_out")),
    spellings=("qwenimage21", "qwenimage2"),
    written={"ss_base_model_version": "qwen_image_2_1", "modelspec.architecture": "Qwen-Image-2.1"},
    wider=("img_in",),
)
