"""PixArt-alpha and PixArt-Sigma: 28 blocks, 1152 wide.

Layers checked against diffusers' PixArtTransformer2DModel (alpha has the two embedders of size and ratio, Sigma lacks them). T5 is not
declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import QKV, Rows, conv, fused, linear

B = "blocks.#"
T = "transformer_blocks.#"


def layers(d: int = 1152, blocks: int = 28) -> Rows:
    """Yield the layers; d: width."""
    yield conv("x_embedder.proj", d, 4, (2, 2), "pos_embed.proj")
    yield linear(f"{B}.attn.qkv", 3 * d, d, fused(f"{T}.attn1", QKV), times=blocks)
    yield linear(f"{B}.attn.proj", d, d, f"{T}.attn1.to_out.0", times=blocks)
    yield linear(f"{B}.cross_attn.q_linear", d, d, f"{T}.attn2.to_q", times=blocks)
    yield linear(f"{B}.cross_attn.kv_linear", 2 * d, d, {f"{T}.attn2.to_k": "0/2", f"{T}.attn2.to_v": "1/2"}, times=blocks)
    yield linear(f"{B}.cross_attn.proj", d, d, f"{T}.attn2.to_out.0", times=blocks)
    yield linear(f"{B}.mlp.fc1", 4 * d, d, f"{T}.ff.net.0.proj", times=blocks)
    yield linear(f"{B}.mlp.fc2", d, 4 * d, f"{T}.ff.net.2", times=blocks)
    yield linear("final_layer.linear", 32, d, "proj_out")
    yield linear("t_embedder.mlp.0", d, 256, "adaln_single.emb.timestep_embedder.linear_1")
    yield linear("t_embedder.mlp.2", d, d, "adaln_single.emb.timestep_embedder.linear_2")
    yield linear("csize_embedder.mlp.0", 384, 256, "adaln_single.emb.resolution_embedder.linear_1")
    yield linear("csize_embedder.mlp.2", 384, 384, "adaln_single.emb.resolution_embedder.linear_2")
    yield linear("ar_embedder.mlp.0", 384, 256, "adaln_single.emb.aspect_ratio_embedder.linear_1")
    yield linear("ar_embedder.mlp.2", 384, 384, "adaln_single.emb.aspect_ratio_embedder.linear_2")
    yield linear("t_block.1", 6 * d, d, "adaln_single.linear")
    yield linear("y_embedder.y_proj.fc1", d, 4096, "caption_projection.linear_1")
    yield linear("y_embedder.y_proj.fc2", d, d, "caption_projection.linear_2")


FAMILY = Family(
    id="pixart",
    label="PixArt",
    short="PixArt",
    components=(transformer(layers),),
    blocks=Blocks({"blocks": "B"}),
    spellings=("pixart",),
    written={"modelspec.architecture": "pixart-sigma"},
)
