"""Qwen-Image (Edit, 2509, 2511, 2512 too): its layers have the same names everywhere. Checked against QwenImageTransformer2DModel."""

from ..family import Blocks, Family, transformer
from ..rows import ADDED_QKV, QKV, Rows, linear, norm
from ..text_encoders import QWEN25_7B

B = "transformer_blocks.#"


def layers(d: int = 3072, blocks: int = 60, context: int = 3584) -> Rows:
    """Yield the layers; context: width of the text's features."""
    yield linear("time_text_embed.timestep_embedder.linear_1", d, 256)
    yield linear("time_text_embed.timestep_embedder.linear_2", d, d)
    yield norm("txt_norm", context)
    yield linear("img_in", d, 64)
    yield linear("txt_in", d, context)
    for stream in ("img", "txt"):
        yield linear(f"{B}.{stream}_mod.1", 6 * d, d, times=blocks)
        yield linear(f"{B}.{stream}_mlp.net.0.proj", 4 * d, d, times=blocks)
        yield linear(f"{B}.{stream}_mlp.net.2", d, 4 * d, times=blocks)
    for name in (*QKV, *ADDED_QKV, "to_out.0", "to_add_out"):
        yield linear(f"{B}.attn.{name}", d, d, times=blocks)
    for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        yield norm(f"{B}.attn.{name}", 128, times=blocks)
    yield linear("norm_out.linear", 2 * d, d)
    yield linear("proj_out", 64, d)


FAMILY = Family(
    id="qwen-image",
    label="Qwen-Image",
    short="Qwen-Image",
    components=(transformer(layers), QWEN25_7B),
    blocks=Blocks({"transformer_blocks": "T"}, last=("norm_out", "proj_out")),
    spellings=("qwenimage",),
    written={"ss_base_model_version": "qwen_image", "modelspec.architecture": "Qwen-Image"},
    wider=("img_in",),
)
