"""Krea 2: one stream, gated attention, a quarter of the heads for keys and values; layers of a language model are fused before it.

Checked against diffusers' Krea2Transformer2DModel and Forge Neo's names. Its text encoder is Qwen3-VL 4B.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, layer, linear, norm
from ..text_encoders import QWEN3_4B


def layers(d: int = 6144, kv: int = 1536, f: int = 16384, blocks: int = 28, text: int = 2560, text_f: int = 6912) -> Rows:
    """Yield the layers; kv: width of keys and of values, f: of the feed-forward, text, text_f: the same in the text's blocks."""
    yield linear("first", d, 64, "img_in")
    yield linear("tmlp.0", d, 256, "time_embed.linear_1")
    yield linear("tmlp.2", d, d, "time_embed.linear_2")
    yield linear("tproj.1", 6 * d, d, "time_mod_proj")
    for name in ("layerwise_blocks", "refiner_blocks"):
        yield from block(f"txtfusion.{name}.#", f"text_fusion.{name}.#", text, text, text_f, 2)
    yield linear("txtfusion.projector", 1, 12, "text_fusion.projector", False)
    yield norm("txtmlp.0", text, "txt_in.norm")
    yield linear("txtmlp.1", d, text, "txt_in.linear_1")
    yield linear("txtmlp.3", d, d, "txt_in.linear_2")
    yield from block("blocks.#", "transformer_blocks.#", d, kv, f, blocks)
    yield layer("Parameter", "blocks.#.mod.lin", (6, d), "transformer_blocks.#.scale_shift_table", False, blocks)
    yield norm("last.norm", d, "final_layer.norm")
    yield linear("last.linear", 64, d, "final_layer.linear")
    yield layer("Parameter", "last.modulation.lin", (2, d), "final_layer.scale_shift_table", False)


def block(own: str, other: str, d: int, kv: int, f: int, count: int) -> Rows:
    """Yield attention, feed-forward and norms of the blocks of a list."""
    attention = (("wq", "to_q", d), ("wk", "to_k", kv), ("wv", "to_v", kv), ("gate", "to_gate", d), ("wo", "to_out.0", d))
    for name, theirs, out in attention:
        yield linear(f"{own}.attn.{name}", out, d, f"{other}.attn.{theirs}", False, count)
    for letter in "qk":
        yield norm(f"{own}.attn.qknorm.{letter}norm", 128, f"{other}.attn.norm_{letter}", times=count)
    for name, out, in_ in (("gate", f, d), ("up", f, d), ("down", d, f)):
        yield linear(f"{own}.mlp.{name}", out, in_, f"{other}.ff.{name}", False, count)
    yield norm(f"{own}.prenorm", d, f"{other}.norm1", times=count)
    yield norm(f"{own}.postnorm", d, f"{other}.norm2", times=count)


FAMILY = Family(
    id="krea2",
    label="Krea 2",
    short="Krea 2",
    components=(transformer(layers), QWEN3_4B),
    blocks=Blocks({"blocks": "B"}, last=("last",)),
    spellings=("krea2",),
    written={"ss_base_model_version": "krea2", "modelspec.architecture": "Krea-2"},
)
