"""Flux.2 (dev, klein 4B, klein 9B): modulations shared by all blocks, no biases. Checked against diffusers' Flux2Transformer2DModel.

The text encoder of dev (Mistral) has no networks; those of klein are Qwen3 4B and 8B.
"""

from ..family import Blocks, Component, Family, transformer
from ..rows import ADDED_QKV, QKV, Rows, fused, linear, norm
from ..text_encoders import QWEN3_4B, QWEN3_8B

D, S = "double_blocks.#", "single_blocks.#"
T, U = "transformer_blocks.#", "single_transformer_blocks.#"
STREAMS = (("img", QKV, "to_out.0", "", "norm"), ("txt", ADDED_QKV, "to_add_out", "_context", "norm_added"))


def layers(d: int, double: int, single: int, context: int, guidance: bool = False) -> Rows:
    """Yield the layers; context: width of the text's features, guidance: with an embedding of the distilled guidance."""
    yield linear("img_in", d, 128, "x_embedder", False)
    yield linear("txt_in", d, context, "context_embedder", False)
    for name, other in (("time_in", "timestep"), ("guidance_in", "guidance"))[: 1 + guidance]:
        yield linear(f"{name}.in_layer", d, 256, f"time_guidance_embed.{other}_embedder.linear_1", False)
        yield linear(f"{name}.out_layer", d, d, f"time_guidance_embed.{other}_embedder.linear_2", False)
    for name, parts in (("double_stream_modulation_img", 6), ("double_stream_modulation_txt", 6), ("single_stream_modulation", 3)):
        yield linear(f"{name}.lin", parts * d, d, f"{name}.linear", False)
    for stream, names, out, suffix, norms in STREAMS:
        own = f"{D}.{stream}"
        yield linear(f"{own}_attn.qkv", 3 * d, d, fused(f"{T}.attn", names), False, double)
        yield norm(f"{own}_attn.norm.query_norm", 128, f"{T}.attn.{norms}_q", times=double)
        yield norm(f"{own}_attn.norm.key_norm", 128, f"{T}.attn.{norms}_k", times=double)
        yield linear(f"{own}_attn.proj", d, d, f"{T}.attn.{out}", False, double)
        yield linear(f"{own}_mlp.0", 6 * d, d, f"{T}.ff{suffix}.linear_in", False, double)
        yield linear(f"{own}_mlp.2", d, 3 * d, f"{T}.ff{suffix}.linear_out", False, double)
    yield linear(f"{S}.linear1", 9 * d, d, f"{U}.attn.to_qkv_mlp_proj", False, single)
    yield linear(f"{S}.linear2", d, 4 * d, f"{U}.attn.to_out", False, single)
    yield norm(f"{S}.norm.query_norm", 128, f"{U}.attn.norm_q", times=single)
    yield norm(f"{S}.norm.key_norm", 128, f"{U}.attn.norm_k", times=single)
    yield linear("final_layer.linear", 128, d, "proj_out", False)
    yield linear("final_layer.adaLN_modulation.1", 2 * d, d, {"norm_out.linear": "swap"}, False)


def family(name: str, label: str, spelling: str, sizes: dict[str, int], *texts: Component) -> Family:
    """Declare one of the three."""
    return Family(
        id=name,
        label=label,
        short="Flux.2",
        components=(transformer(layers), *texts),
        blocks=Blocks({"double_blocks": "D", "single_blocks": "S"}),
        variants={"": sizes},
        spellings=("flux2", spelling, spelling[: -len("4b")] if spelling.endswith("b") else "flux2dev"),
        written={"ss_base_model_version": name.replace("-", "_"), "modelspec.architecture": name},
        wider=("img_in",),
    )


FAMILIES = (
    family("flux2-dev", "Flux.2 dev", "flux2", {"d": 6144, "double": 8, "single": 48, "context": 15360, "guidance": True}),
    family("flux2-klein-4b", "Flux.2 klein 4B", "flux2klein4b", {"d": 3072, "double": 5, "single": 20, "context": 7680}, QWEN3_4B),
    family("flux2-klein-9b", "Flux.2 klein 9B", "flux2klein9b", {"d": 4096, "double": 8, "single": 24, "context": 12288}, QWEN3_8B),
)
