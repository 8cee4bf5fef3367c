"""The full-size layer tables of the known base models, written as the rules they were built by.

Every function yields `path, LayerInfo` of one component, without the component's prefix.
Axis letters: d = width of the residual stream, c = width of the text conditioning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .parameters import LayerInfo

Layers = Iterator[tuple[str, LayerInfo]]


def _linear(out: int, in_: int, bias: bool = True) -> LayerInfo:
    return LayerInfo("Linear", (out, in_), bias)


def _conv(out: int, in_: int, size: int = 3) -> LayerInfo:
    return LayerInfo("Conv2d", (out, in_, size, size), True)


def _layer_norm(width: int, bias: bool = True) -> LayerInfo:
    return LayerInfo("LayerNorm", (width,), bias)


def _group_norm(width: int) -> LayerInfo:
    return LayerInfo("GroupNorm", (width,), True)


def _embedding(count: int, width: int) -> LayerInfo:
    return LayerInfo("Embedding", (count, width), False)


@dataclass(frozen=True)
class UNetPlan:
    """Describe an LDM UNet: base width, factor and transformer depth per level, c, width of the extra vector."""

    width: int
    factors: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    context: int
    linear_projection: bool
    vector: int = 0


UNETS = {
    "sd1": UNetPlan(320, (1, 2, 4, 4), (1, 1, 1, 0), 1, 768, False),
    "sd2": UNetPlan(320, (1, 2, 4, 4), (1, 1, 1, 0), 1, 1024, True),
    "sdxl": UNetPlan(320, (1, 2, 4), (0, 2, 10), 10, 2048, True, 2816),
    "sdxl-refiner": UNetPlan(384, (1, 2, 4, 4), (0, 4, 4, 0), 4, 1280, True, 2560),
}


def unet(plan: UNetPlan) -> Layers:
    """Yield the layers of an LDM UNet with two residual blocks a level."""
    d, embedding = plan.width, 4 * plan.width
    yield "time_embed.0", _linear(embedding, d)
    yield "time_embed.2", _linear(embedding, embedding)
    if plan.vector:
        yield "label_emb.0.0", _linear(embedding, plan.vector)
        yield "label_emb.0.2", _linear(embedding, embedding)
    yield "input_blocks.0.0", _conv(d, 4)
    skips = [d]
    for level, (factor, depth) in enumerate(zip(plan.factors, plan.depths, strict=True)):
        for _ in range(2):
            block = f"input_blocks.{len(skips)}"
            yield from _resnet(f"{block}.0", d, factor * plan.width, embedding)
            d = factor * plan.width
            yield from _transformer(f"{block}.1", d, depth, plan)
            skips.append(d)
        if level < len(plan.factors) - 1:
            yield f"input_blocks.{len(skips)}.0.op", _conv(d, d)
            skips.append(d)
    yield from _resnet("middle_block.0", d, d, embedding)
    yield from _transformer("middle_block.1", d, plan.middle_depth, plan)
    yield from _resnet("middle_block.2", d, d, embedding)
    yield from _decoder(plan, d, skips)
    yield "out.0", _group_norm(plan.width)
    yield "out.2", _conv(4, plan.width)


def _decoder(plan: UNetPlan, d: int, skips: list[int]) -> Layers:
    number = 0
    for level in reversed(range(len(plan.factors))):
        for index in range(3):
            out, depth = plan.factors[level] * plan.width, plan.depths[level]
            block = f"output_blocks.{number}"
            yield from _resnet(f"{block}.0", d + skips.pop(), out, 4 * plan.width)
            d = out
            yield from _transformer(f"{block}.1", d, depth, plan)
            if level and index == 2:
                yield f"{block}.{2 if depth else 1}.conv", _conv(d, d)
            number += 1


def _resnet(name: str, in_: int, out: int, embedding: int) -> Layers:
    yield f"{name}.in_layers.0", _group_norm(in_)
    yield f"{name}.in_layers.2", _conv(out, in_)
    yield f"{name}.emb_layers.1", _linear(out, embedding)
    yield f"{name}.out_layers.0", _group_norm(out)
    yield f"{name}.out_layers.3", _conv(out, out)
    if in_ != out:
        yield f"{name}.skip_connection", _conv(out, in_, 1)


def _transformer(name: str, d: int, depth: int, plan: UNetPlan) -> Layers:
    if not depth:
        return
    projection = _linear(d, d) if plan.linear_projection else _conv(d, d, 1)
    yield f"{name}.norm", _group_norm(d)
    yield f"{name}.proj_in", projection
    for index in range(depth):
        block = f"{name}.transformer_blocks.{index}"
        for attention, c in (("attn1", d), ("attn2", plan.context)):
            yield f"{block}.{attention}.to_q", _linear(d, d, False)
            yield f"{block}.{attention}.to_k", _linear(d, c, False)
            yield f"{block}.{attention}.to_v", _linear(d, c, False)
            yield f"{block}.{attention}.to_out.0", _linear(d, d)
        yield f"{block}.ff.net.0.proj", _linear(8 * d, d)
        yield f"{block}.ff.net.2", _linear(d, 4 * d)
        for norm in ("norm1", "norm2", "norm3"):
            yield f"{block}.{norm}", _layer_norm(d)
    yield f"{name}.proj_out", projection


def clip(d: int, layers: int, projection: int = 0) -> Layers:
    """Yield the layers of a CLIP text encoder as transformers names them."""
    yield "text_model.embeddings.token_embedding", _embedding(49408, d)
    yield "text_model.embeddings.position_embedding", _embedding(77, d)
    for index in range(layers):
        layer = f"text_model.encoder.layers.{index}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{layer}.self_attn.{name}", _linear(d, d)
        yield f"{layer}.layer_norm1", _layer_norm(d)
        yield f"{layer}.mlp.fc1", _linear(4 * d, d)
        yield f"{layer}.mlp.fc2", _linear(d, 4 * d)
        yield f"{layer}.layer_norm2", _layer_norm(d)
    yield "text_model.final_layer_norm", _layer_norm(d)
    if projection:
        yield "text_projection", _linear(projection, d, False)


def open_clip(d: int, layers: int) -> Layers:
    """Yield the layers of an open_clip text encoder, whose q, k and v are one tensor."""
    yield "token_embedding", _embedding(49408, d)
    yield "positional_embedding", LayerInfo("Parameter", (77, d), False)
    for index in range(layers):
        block = f"transformer.resblocks.{index}"
        yield f"{block}.ln_1", _layer_norm(d)
        yield f"{block}.attn", LayerInfo("MultiheadAttention", (3 * d, d), True)
        yield f"{block}.attn.out_proj", _linear(d, d)
        yield f"{block}.ln_2", _layer_norm(d)
        yield f"{block}.mlp.c_fc", _linear(4 * d, d)
        yield f"{block}.mlp.c_proj", _linear(d, 4 * d)
    yield "ln_final", _layer_norm(d)
    yield "text_projection", LayerInfo("Parameter", (d, d), False)


def t5(d: int = 4096, layers: int = 24, hidden: int = 10240, heads: int = 64) -> Layers:
    """Yield the layers of T5 v1.1 XXL's encoder."""
    yield "shared", _embedding(32128, d)
    for index in range(layers):
        block = f"encoder.block.{index}"
        for name in "qkvo":
            yield f"{block}.layer.0.SelfAttention.{name}", _linear(d, d, False)
        if index == 0:
            yield f"{block}.layer.0.SelfAttention.relative_attention_bias", _embedding(32, heads)
        yield f"{block}.layer.0.layer_norm", _layer_norm(d, False)
        for name in ("wi_0", "wi_1"):
            yield f"{block}.layer.1.DenseReluDense.{name}", _linear(hidden, d, False)
        yield f"{block}.layer.1.DenseReluDense.wo", _linear(d, hidden, False)
        yield f"{block}.layer.1.layer_norm", _layer_norm(d, False)
    yield "encoder.final_layer_norm", _layer_norm(d, False)


@dataclass(frozen=True)
class MMDiTPlan:
    """Describe an SD3: joint blocks, how many have a second attention, side of the position grid, q/k norms."""

    blocks: int
    dual: int = 0
    grid: int = 192
    norms: bool = True


SD3_VARIANTS = {
    "medium": MMDiTPlan(24, norms=False),
    "3.5-medium": MMDiTPlan(24, dual=13, grid=384),
    "3.5-large": MMDiTPlan(38),
}


def mmdit(plan: MMDiTPlan) -> Layers:
    """Yield the layers of SD3's transformer; it is 64 wide for each of its blocks."""
    d = 64 * plan.blocks
    yield "x_embedder.proj", _conv(d, 16, 2)
    yield "pos_embed", LayerInfo("Parameter", (1, plan.grid**2, d), False)
    for name, in_ in (("t_embedder", 256), ("y_embedder", 2048)):
        yield f"{name}.mlp.0", _linear(d, in_)
        yield f"{name}.mlp.2", _linear(d, d)
    yield "context_embedder", _linear(d, 4096)
    for index in range(plan.blocks):
        # The last block only reads the text stream: no projection, no feed-forward, two modulations instead of six.
        last = index == plan.blocks - 1
        yield from _joint(f"joint_blocks.{index}.context_block", d, 2 if last else 6, plan.norms, False)
        dual = index < plan.dual
        yield from _joint(f"joint_blocks.{index}.x_block", d, 9 if dual else 6, plan.norms, dual)
    yield "final_layer.linear", _linear(64, d)
    yield "final_layer.adaLN_modulation.1", _linear(2 * d, d)


def _joint(name: str, d: int, modulations: int, norms: bool, dual: bool) -> Layers:
    for attention in ("attn", "attn2") if dual else ("attn",):
        yield f"{name}.{attention}.qkv", _linear(3 * d, d)
        if norms:
            yield f"{name}.{attention}.ln_q", _layer_norm(64, False)
            yield f"{name}.{attention}.ln_k", _layer_norm(64, False)
        if modulations > 2:
            yield f"{name}.{attention}.proj", _linear(d, d)
    if modulations > 2:
        yield f"{name}.mlp.fc1", _linear(4 * d, d)
        yield f"{name}.mlp.fc2", _linear(d, 4 * d)
    yield f"{name}.adaLN_modulation.1", _linear(modulations * d, d)


FLUX_VARIANTS = {"dev": True, "schnell": False}  # with guidance_in


def flux(guidance: bool, d: int = 3072, double: int = 19, single: int = 38) -> Layers:
    """Yield the layers of Flux.1's transformer."""
    yield "img_in", _linear(d, 64)
    yield "txt_in", _linear(d, 4096)
    for name, in_ in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256 * guidance)):
        if in_:
            yield f"{name}.in_layer", _linear(d, in_)
            yield f"{name}.out_layer", _linear(d, d)
    for index in range(double):
        for stream in ("img", "txt"):
            name = f"double_blocks.{index}.{stream}"
            yield f"{name}_mod.lin", _linear(6 * d, d)
            yield f"{name}_attn.qkv", _linear(3 * d, d)
            yield f"{name}_attn.norm.query_norm", _layer_norm(128, False)
            yield f"{name}_attn.norm.key_norm", _layer_norm(128, False)
            yield f"{name}_attn.proj", _linear(d, d)
            yield f"{name}_mlp.0", _linear(4 * d, d)
            yield f"{name}_mlp.2", _linear(d, 4 * d)
    for index in range(single):
        name = f"single_blocks.{index}"
        yield f"{name}.linear1", _linear(7 * d, d)
        yield f"{name}.linear2", _linear(d, 5 * d)
        yield f"{name}.norm.query_norm", _layer_norm(128, False)
        yield f"{name}.norm.key_norm", _layer_norm(128, False)
        yield f"{name}.modulation.lin", _linear(3 * d, d)
    yield "final_layer.linear", _linear(64, d)
    yield "final_layer.adaLN_modulation.1", _linear(2 * d, d)
