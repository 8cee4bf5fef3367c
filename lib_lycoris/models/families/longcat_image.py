"""LongCat-Image: Flux.1's blocks, 10 double and 20 single ones, 3072 wide.

Layers checked against diffusers' LongCatImageTransformer2DModel with the released numbers of blocks. All names are those of diffusers;
files in another style of this model have not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear, norm

T = "transformer_blocks.#"
U = "single_transformer_blocks.#"


def double_and_single_blocks(d: int, double: int, single: int, gate: int = 1) -> Rows:
    """Yield the blocks and the layers after them; d: width, gate: 2 where the feed-forwards are gated."""
    for name in ("norm1.linear", "norm1_context.linear"):
        yield linear(f"{T}.{name}", 6 * d, d, times=double)
    for name in ("norm_q", "norm_k"):
        yield norm(f"{T}.attn.{name}", 128, times=double)
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield linear(f"{T}.attn.{name}", d, d, times=double)
    for name in ("norm_added_q", "norm_added_k"):
        yield norm(f"{T}.attn.{name}", 128, times=double)
    for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        yield linear(f"{T}.attn.{name}", d, d, times=double)
    yield linear(f"{T}.ff.net.0.proj", gate * 4 * d, d, times=double)
    yield linear(f"{T}.ff.net.2", d, 4 * d, times=double)
    yield linear(f"{T}.ff_context.net.0.proj", gate * 4 * d, d, times=double)
    yield linear(f"{T}.ff_context.net.2", d, 4 * d, times=double)
    yield linear(f"{U}.norm.linear", 3 * d, d, times=single)
    yield linear(f"{U}.proj_mlp", gate * 4 * d, d, times=single)
    yield linear(f"{U}.proj_out", d, 5 * d, times=single)
    for name in ("norm_q", "norm_k"):
        yield norm(f"{U}.attn.{name}", 128, times=single)
    for name in ("to_q", "to_k", "to_v"):
        yield linear(f"{U}.attn.{name}", d, d, times=single)
    yield linear("norm_out.linear", 2 * d, d)
    yield linear("proj_out", 64, d)


def layers(d: int = 3072, double: int = 10, single: int = 20) -> Rows:
    """Yield the layers; d: width."""
    yield linear("time_embed.timestep_embedder.linear_1", d, 256)
    yield linear("time_embed.timestep_embedder.linear_2", d, d)
    yield linear("context_embedder", d, 3584)
    yield linear("x_embedder", d, 64)
    yield from double_and_single_blocks(d, double, single)


FAMILY = Family(
    id="longcat-image",
    label="LongCat-Image",
    short="LongCat",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "D", "single_transformer_blocks": "S"}, last=("proj_out", "norm_out")),
    spellings=("longcat",),
    written={"modelspec.architecture": "longcat-image"},
)
