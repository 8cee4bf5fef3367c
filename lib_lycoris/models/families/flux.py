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
    yield from double_blocks(d, double)
    yield from single_blocks(d, single)
    yield from final_layer(d)


def double_blocks(d: int, count: int, modulations: bool = True) -> Rows:
    """Yield the blocks that keep text and image apart; modulations: whether they have layers for them."""
    for stream, names, out, suffix, norms in STREAMS:
        own = f"{D}.{stream}"
        if modulations:
            yield linear(f"{own}_mod.lin", 6 * d, d, f"{T}.norm1{suffix}.linear", times=count)
        yield linear(f"{own}_attn.qkv", 3 * d, d, fused(f"{T}.attn", names), times=count)
        yield norm(f"{own}_attn.norm.query_norm", 128, f"{T}.attn.{norms}_q", times=count)
        yield norm(f"{own}_attn.norm.key_norm", 128, f"{T}.attn.{norms}_k", times=count)
        yield linear(f"{own}_attn.proj", d, d, f"{T}.attn.{out}", times=count)
        yield linear(f"{own}_mlp.0", 4 * d, d, f"{T}.ff{suffix}.net.0.proj", times=count)
        yield linear(f"{own}_mlp.2", d, 4 * d, f"{T}.ff{suffix}.net.2", times=count)


def single_blocks(d: int, count: int, modulations: bool = True) -> Rows:
    """Yield the blocks whose first layer is q, k, v and the feed-forward's."""
    yield linear(f"{S}.linear1", 7 * d, d, fused(f"{U}.attn", QKV) | {f"{U}.proj_mlp": "mlp"}, times=count)
    yield linear(f"{S}.linear2", d, 5 * d, f"{U}.proj_out", times=count)
    yield norm(f"{S}.norm.query_norm", 128, f"{U}.attn.norm_q", times=count)
    yield norm(f"{S}.norm.key_norm", 128, f"{U}.attn.norm_k", times=count)
    if modulations:
        yield linear(f"{S}.modulation.lin", 3 * d, d, f"{U}.norm.linear", times=count)


def final_layer(d: int, channels: int = 64, modulations: bool = True) -> Rows:
    """Yield the layers behind the blocks."""
    yield linear("final_layer.linear", channels, d, "proj_out")
    if modulations:
        yield linear("final_layer.adaLN_modulation.1", 2 * d, d, {"norm_out.linear": "swap"})


ALSO = {  # XLabs, UNO and USO; ComfyUI's copy of them; DiffSynth; OneTrainer
    f"{D}.processor.qkv_lora1": f"{D}.img_attn.qkv",
    f"{D}.processor.qkv_lora2": f"{D}.txt_attn.qkv",
    f"{D}.processor.proj_lora1": f"{D}.img_attn.proj",
    f"{D}.processor.proj_lora2": f"{D}.txt_attn.proj",
    f"{S}.processor.qkv_lora": f"{S}.linear1[qkv]",
    f"{S}.processor.proj_lora": f"{S}.linear2",
    f"{S}.linear1_qkv": f"{S}.linear1[qkv]",
    "blocks.#.attn.a_to_qkv": f"{D}.img_attn.qkv",
    "blocks.#.attn.b_to_qkv": f"{D}.txt_attn.qkv",
    "blocks.#.attn.a_to_out": f"{D}.img_attn.proj",
    "blocks.#.attn.b_to_out": f"{D}.txt_attn.proj",
    **{f"blocks.#.ff_{a}.{number}": f"{D}.{stream}_mlp.{number}" for a, stream in (("a", "img"), ("b", "txt")) for number in (0, 2)},
    "blocks.#.norm1_a.linear": f"{D}.img_mod.lin",
    "blocks.#.norm1_b.linear": f"{D}.txt_mod.lin",
    f"{S}.to_qkv_mlp": f"{S}.linear1",
    f"{S}.proj_out": f"{S}.linear2",
    f"{S}.norm.linear": f"{S}.modulation.lin",
    "img_in.proj": "img_in",
    "txt_in.proj": "txt_in",
}

FAMILY = Family(
    id="flux",
    label="Flux.1",
    short="Flux",
    components=(
        transformer(layers, ALSO),
        clip("clip_l.transformer.", "lora_te1", "te", "te1", "clip_l", projection=768, block="CLIP"),
        t5("text_encoder_2", "te2", "te3", "t5xxl", "t5"),  # kohya calls it te3, OneTrainer and diffusers te2
    ),
    blocks=Blocks({"double_blocks": "D", "single_blocks": "S"}, counts=(61,)),
    variants={"dev": {}, "schnell": {"guidance": False}},
    spellings=("flux1", "fluxdev", "fluxschnell", "flux"),
    written={"modelspec.architecture": "flux-1-dev"},
    wider=("img_in",),
)
