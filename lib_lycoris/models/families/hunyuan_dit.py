"""HunyuanDiT 1.x: 40 blocks, 1408 wide, the second half with skip connections.

Layers checked against diffusers' HunyuanDiT2DModel with the released configuration; original names are those of the released checkpoint
that PEFT's files use. Text encoders (CLIP and mT5) are not declared, nor norm2 and norm3, which the two styles call the other way round:
a name alone does not tell which is meant.
"""

from ..family import Blocks, Family, transformer
from ..rows import HALVES, QKV, Rows, conv, fused, layer, linear, norm

B = "blocks.#"


def layers(d: int = 1408, f: int = 6144, blocks: int = 40, style: bool = True) -> Rows:
    """Yield the layers; d: width, f: width of the feed-forward, style: with conditions of the image's style and size."""
    later = range(blocks // 2 + 1, blocks)
    yield conv("x_embedder.proj", d, 4, (2, 2), "pos_embed.proj")
    yield linear("t_embedder.mlp.0", d, 256, "time_extra_emb.timestep_embedder.linear_1")
    yield linear("t_embedder.mlp.2", d, d, "time_extra_emb.timestep_embedder.linear_2")
    yield from conditions(d, style)
    yield norm(f"{B}.norm1", d, f"{B}.norm1.norm", bias=True, times=blocks)
    yield linear(f"{B}.default_modulation.1", d, d, f"{B}.norm1.linear", times=blocks)
    yield linear(f"{B}.attn1.Wqkv", 3 * d, d, fused(f"{B}.attn1", QKV), times=blocks)
    yield linear(f"{B}.attn1.out_proj", d, d, f"{B}.attn1.to_out.0", times=blocks)
    for name in ("attn1", "attn2"):
        for letter in "qk":
            yield norm(f"{B}.{name}.{letter}_norm", 88, f"{B}.{name}.norm_{letter}", bias=True, times=blocks)
    yield linear(f"{B}.attn2.q_proj", d, d, f"{B}.attn2.to_q", times=blocks)
    yield linear(f"{B}.attn2.kv_proj", 2 * d, 1024, fused(f"{B}.attn2", QKV[1:], HALVES), times=blocks)
    yield linear(f"{B}.attn2.out_proj", d, d, f"{B}.attn2.to_out.0", times=blocks)
    yield linear(f"{B}.mlp.fc1", f, d, f"{B}.ff.net.0.proj", times=blocks)
    yield linear(f"{B}.mlp.fc2", d, f, f"{B}.ff.net.2", times=blocks)
    yield norm(f"{B}.skip_norm", 2 * d, bias=True, times=later)
    yield linear(f"{B}.skip_linear", d, 2 * d, times=later)
    yield linear("final_layer.adaLN_modulation.1", 2 * d, d, {"norm_out.linear": "swap"})
    yield linear("final_layer.linear", 32, d, "proj_out")


def conditions(d: int, style: bool, text: int = 2048, pooled: int = 1024) -> Rows:
    """Yield the layers that read mT5's features and what else the blocks are told."""
    yield linear("mlp_t5.0", 4 * text, text, "text_embedder.linear_1")
    yield linear("mlp_t5.2", 1024, 4 * text, "text_embedder.linear_2")
    for letter, out in (("k", text), ("q", text), ("v", text), ("c", pooled)):
        yield linear(f"pooler.{letter}_proj", out, text, f"time_extra_emb.pooler.{letter}_proj")
    if style:
        yield layer("Embedding", "style_embedder", (1, d), "time_extra_emb.style_embedder", False)
    yield linear("extra_embedder.0", 4 * d, pooled + (256 * 6 + d if style else 0), "time_extra_emb.extra_embedder.linear_1")
    yield linear("extra_embedder.2", d, 4 * d, "time_extra_emb.extra_embedder.linear_2")


FAMILY = Family(
    id="hunyuan-dit",
    label="HunyuanDiT",
    short="HunyuanDiT",
    components=(transformer(layers),),
    blocks=Blocks({"blocks": "B"}),
    variants={"1.1": {}, "1.2": {"style": False}},
    spellings=("hunyuandit",),
    written={"modelspec.architecture": "hunyuan-dit"},
)
