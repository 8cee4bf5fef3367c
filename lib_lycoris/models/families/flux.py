"""Flux.1 (dev, schnell, Kontext, Krea, Fill, Control): 19 double and 38 single blocks, 3072 wide."""

from ..family import Blocks, Family, transformer
from ..rows import ADDED_QKV, QKV, Rows, fused, linear, norm
from ..text_encoders import clip, t5

D, S = "double_blocks.#", "single_blocks.#"
T, U = "transformer_blocks.#", "single_transformer_blocks.#"
STREAMS = (("img", QKV, "to_out.0", "", "norm"), ("txt", ADDED_QKV, "to_add_out", "_context", "norm_added"))


def layers(guidance: bool = True, d: int = 3072, double: int = 19, single: int = 38) -> Rows:
    """Yield the layers; guidance: with an embedding of the distilled guidance."""
    yield linear("img_in", d, 64, "x_embedder")
    yield linear("txt_in", d, 4096, "context_embedder")
    embedders = (("time_in", "timestep", 256), ("vector_in", "text", 768), ("guidance_in", "guidance", 256))
    for name, other, in_ in embedders if guidance else embedders[:2]:
        yield linear(f"{name}.in_layer", d, in_, f"time_text_embed.{other}_embedder.linear_1")
        yield linear(f"{name}.out_layer", d, d, f"time_text_embed.{other}_embedder.linear_2")
    for stream, names, out, suffix, norms in STREAMS:
        own = f"{D}.{stream}"
        yield linear(f"{own}_mod.lin", 6 * d, d, f"{T}.norm1{suffix}.linear", times=double)
        yield linear(f"{own}_attn.qkv", 3 * d, d, fused(f"{T}.attn", names), times=double)
        yield norm(f"{own}_attn.norm.query_norm", 128, f"{T}.attn.{norms}_q", times=double)
        yield norm(f"{own}_attn.norm.key_norm", 128, f"{T}.attn.{norms}_k", times=double)
        yield linear(f"{own}_attn.proj", d, d, f"{T}.attn.{out}", times=double)
        yield linear(f"{own}_mlp.0", 4 * d, d, f"{T}.ff{suffix}.net.0.proj", times=double)
        yield linear(f"{own}_mlp.2", d, 4 * d, f"{T}.ff{suffix}.net.2", times=double)
    yield linear(f"{S}.linear1", 7 * d, d, fused(f"{U}.attn", QKV) | {f"{U}.proj_mlp": "mlp"}, times=single)
    yield linear(f"{S}.linear2", d, 5 * d, f"{U}.proj_out", times=single)
    yield norm(f"{S}.norm.query_norm", 128, f"{U}.attn.norm_q", times=single)
    yield norm(f"{S}.norm.key_norm", 128, f"{U}.attn.norm_k", times=single)
    yield linear(f"{S}.modulation.lin", 3 * d, d, f"{U}.norm.linear", times=single)
    yield linear("final_layer.linear", 64, d, "proj_out")
    yield linear("final_layer.adaLN_modulation.1", 2 * d, d, {"norm_out.linear": "swap"})


FAMILY = Family(
    id="flux",
    label="Flux.1",
    short="Flux",
    components=(
        transformer(layers),
        clip("clip_l.transformer.", "lora_te1", "te", "te1", "clip_l", projection=768, block="CLIP"),
        t5("text_encoder_2", "te2", "te3", "t5xxl", "t5"),  # kohya calls it te3, OneTrainer and diffusers te2
    ),
    blocks=Blocks({"double_blocks": "D", "single_blocks": "S"}, counts=(61,)),
    variants={"dev": {}, "schnell": {"guidance": False}},
    spellings=("flux1", "fluxdev", "fluxschnell", "flux"),
    written={"modelspec.architecture": "flux-1-dev"},
    wider=("img_in",),
)
