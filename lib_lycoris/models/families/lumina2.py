"""Lumina Image 2.0 and Neta Lumina: one stream with two refiners, a third of the heads for keys and values.

Checked against diffusers' Lumina2Transformer2DModel (with Gemma's 2304 features, as released) and ComfyUI's names.
"""

from ..family import Blocks, Family, transformer
from ..rows import GROUPED, QKV, Rows, fused, linear, norm
from ..text_encoders import GEMMA2_2B

CAPTION = "time_caption_embed.caption_embedder"
TIME = "time_caption_embed.timestep_embedder"


def layers(d: int = 2304, kv: int = 768, f: int = 9216, blocks: int = 26, context: int = 2304) -> Rows:
    """Yield the layers; kv: width of keys and of values, f: of the feed-forward, context: of the text's features."""
    yield linear("x_embedder", d, 64)
    yield linear("t_embedder.mlp.0", 1024, 256, f"{TIME}.linear_1")
    yield linear("t_embedder.mlp.2", 1024, 1024, f"{TIME}.linear_2")
    yield norm("cap_embedder.0", context, f"{CAPTION}.0")
    yield linear("cap_embedder.1", d, context, f"{CAPTION}.1")
    for name, count in (("noise_refiner", 2), ("context_refiner", 2), ("layers", blocks)):
        modulated = name != "context_refiner"  # the text is not told the time step
        yield from block(f"{name}.#", d, kv, f, count, "norm1.norm" if modulated else "norm1")
        if modulated:
            yield linear(f"{name}.#.adaLN_modulation.1", 4 * d, 1024, f"{name}.#.norm1.linear", times=count)
    yield linear("final_layer.linear", 64, d, "norm_out.linear_2")
    yield linear("final_layer.adaLN_modulation.1", d, 1024, "norm_out.linear_1")


def block(b: str, d: int, kv: int, f: int, count: int, first_norm: str) -> Rows:
    """Yield attention, feed-forward and norms of the blocks of a list; first_norm: its name in diffusers."""
    yield linear(f"{b}.attention.qkv", d + 2 * kv, d, fused(f"{b}.attn", QKV, GROUPED), False, count)
    yield linear(f"{b}.attention.out", d, d, f"{b}.attn.to_out.0", False, count)
    yield norm(f"{b}.attention.q_norm", 96, f"{b}.attn.norm_q", times=count)
    yield norm(f"{b}.attention.k_norm", 96, f"{b}.attn.norm_k", times=count)
    for number, out, in_ in ((1, f, d), (2, d, f), (3, f, d)):
        yield linear(f"{b}.feed_forward.w{number}", out, in_, f"{b}.feed_forward.linear_{number}", False, count)
    yield norm(f"{b}.attention_norm1", d, f"{b}.{first_norm}", times=count)
    yield norm(f"{b}.attention_norm2", d, f"{b}.norm2", times=count)
    for name in ("ffn_norm1", "ffn_norm2"):
        yield norm(f"{b}.{name}", d, times=count)


FAMILY = Family(
    id="lumina2",
    label="Lumina Image 2.0",
    short="Lumina 2",
    components=(transformer(layers), GEMMA2_2B),
    blocks=Blocks({"noise_refiner": "N", "context_refiner": "C", "layers": "L"}),
    spellings=("lumina2", "luminaimage2", "netalumina", "lumina"),
    written={"ss_base_model_version": "lumina2", "modelspec.architecture": "lumina-2"},
)
