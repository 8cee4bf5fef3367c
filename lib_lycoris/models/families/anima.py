"""Anima, on the Cosmos-Predict2 2B transformer with a text conditioner. Checked against CosmosTransformer3DModel and Forge Neo's names.

The conditioner (`llm_adapter`) lies in the transformer's file; Forge Neo holds it beside the text encoder, diffusers as a model of its own.
"""

from ..family import Blocks, Component, Family, transformer
from ..naming import TableNames
from ..rows import Rows, layer, linear, norm
from ..text_encoders import QWEN3_06B

B, T = "blocks.#", "transformer_blocks.#"


def layers(d: int = 2048, blocks: int = 28, context: int = 1024, low: int = 256) -> Rows:
    """Yield the layers; context: width of the text's features, low: of the modulations' bottleneck."""
    yield linear("x_embedder.proj.1", d, 68, "patch_embed.proj", False)
    yield linear("t_embedder.1.linear_1", d, d, "time_embed.t_embedder.linear_1", False)
    yield linear("t_embedder.1.linear_2", 3 * d, d, "time_embed.t_embedder.linear_2", False)
    yield norm("t_embedding_norm", d, "time_embed.norm")
    for own, other, in_ in (("self_attn", "attn1", d), ("cross_attn", "attn2", context)):
        for name, theirs, width in (("q", "to_q", d), ("k", "to_k", in_), ("v", "to_v", in_), ("output", "to_out.0", d)):
            yield linear(f"{B}.{own}.{name}_proj", d, width, f"{T}.{other}.{theirs}", False, blocks)
        for letter in "qk":
            yield norm(f"{B}.{own}.{letter}_norm", 128, f"{T}.{other}.norm_{letter}", times=blocks)
    yield linear(f"{B}.mlp.layer1", 4 * d, d, f"{T}.ff.net.0.proj", False, blocks)
    yield linear(f"{B}.mlp.layer2", d, 4 * d, f"{T}.ff.net.2", False, blocks)
    for name, other in (("self_attn", "norm1"), ("cross_attn", "norm2"), ("mlp", "norm3")):
        yield linear(f"{B}.adaln_modulation_{name}.1", low, d, f"{T}.{other}.linear_1", False, blocks)
        yield linear(f"{B}.adaln_modulation_{name}.2", 3 * d, low, f"{T}.{other}.linear_2", False, blocks)
    yield linear("final_layer.linear", 64, d, "proj_out", False)
    yield linear("final_layer.adaln_modulation.1", low, d, "norm_out.linear_1", False)
    yield linear("final_layer.adaln_modulation.2", 2 * d, low, "norm_out.linear_2", False)


def conditioner(d: int = 1024, blocks: int = 6) -> Rows:
    """Yield the layers of the text conditioner."""
    yield layer("Embedding", "embed", (32128, d), bias=False)
    for attention in ("self_attn", "cross_attn"):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield linear(f"{B}.{attention}.{name}", d, d, bias=False, times=blocks)
        for name in ("q_norm", "k_norm"):
            yield norm(f"{B}.{attention}.{name}", 64, times=blocks)
        yield norm(f"{B}.norm_{attention}", d, times=blocks)
    yield norm(f"{B}.norm_mlp", d, times=blocks)
    yield linear(f"{B}.mlp.0", 4 * d, d, times=blocks)
    yield linear(f"{B}.mlp.2", d, 4 * d, times=blocks)
    yield linear("out_proj", d, d)
    yield norm("norm", d)


FAMILY = Family(
    id="anima",
    label="Anima",
    short="Anima",
    components=(
        Component(
            "te2", "diffusion_model.llm_adapter.", "text_conditioner", "lora_unet_llm_adapter", conditioner, TableNames,
            ("llm_adapter",), "LLM", inside="llm_adapter.",
        ),
        transformer(layers),
        QWEN3_06B,
    ),
    blocks=Blocks({"blocks": "B"}),
    spellings=("anima", "cosmospredict2"),
    written={"ss_base_model_version": "anima", "modelspec.architecture": "anima"},
)  # fmt: skip
