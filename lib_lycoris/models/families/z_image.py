"""Z-Image (Turbo, Base, Omni): one stream with two refiners. Checked against diffusers' ZImageTransformer2DModel and ComfyUI's names."""

from ..family import Blocks, Family, transformer
from ..rows import QKV, Rows, fused, layer, linear, norm
from ..text_encoders import QWEN3_4B

LISTS = ("noise_refiner", "context_refiner", "layers")


def layers(d: int = 3840, f: int = 10240, blocks: int = 30, context: int = 2560) -> Rows:
    """Yield the layers; f: width of the feed-forward, context: of the text's features."""
    yield linear("x_embedder", d, 64, "all_x_embedder.2-1")
    yield linear("t_embedder.mlp.0", 1024, 256)
    yield linear("t_embedder.mlp.2", 256, 1024)
    yield norm("cap_embedder.0", context)
    yield linear("cap_embedder.1", d, context)
    for name in ("x_pad_token", "cap_pad_token"):
        yield layer("Parameter", name, (1, d), bias=False)
    for name, count in zip(LISTS, (2, 2, blocks), strict=True):
        yield from block(f"{name}.#", d, f, count)
        if name != "context_refiner":  # the text is not told the time step
            yield linear(f"{name}.#.adaLN_modulation.0", 4 * d, 256, times=count)
    yield linear("final_layer.linear", 64, d, "all_final_layer.2-1.linear")
    yield linear("final_layer.adaLN_modulation.1", d, 256, "all_final_layer.2-1.adaLN_modulation.1")


def block(b: str, d: int, f: int, count: int) -> Rows:
    """Yield attention, feed-forward and norms of the blocks of a list."""
    yield linear(f"{b}.attention.qkv", 3 * d, d, fused(f"{b}.attention", QKV), False, count)
    yield linear(f"{b}.attention.out", d, d, f"{b}.attention.to_out.0", False, count)
    yield norm(f"{b}.attention.q_norm", 128, f"{b}.attention.norm_q", times=count)
    yield norm(f"{b}.attention.k_norm", 128, f"{b}.attention.norm_k", times=count)
    for name, out, in_ in (("w1", f, d), ("w2", d, f), ("w3", f, d)):
        yield linear(f"{b}.feed_forward.{name}", out, in_, bias=False, times=count)
    for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
        yield norm(f"{b}.{name}", d, times=count)


FAMILY = Family(
    id="z-image",
    label="Z-Image",
    short="Z-Image",
    components=(transformer(layers), QWEN3_4B),
    blocks=Blocks({"noise_refiner": "N", "context_refiner": "C", "layers": "L"}),
    spellings=("zimage",),
    written={"ss_base_model_version": "z_image", "modelspec.architecture": "Z-Image"},
)
