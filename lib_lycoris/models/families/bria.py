"""Bria 3.2 and FIBO: Flux.1's blocks without its embedding of pooled text, 3072 wide.

Layers checked against diffusers' BriaTransformer2DModel and BriaFiboTransformer2DModel; FIBO's released numbers of blocks are not
verified. All names are those of diffusers; files in another style of this model have not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear, norm

T = "transformer_blocks.#"
U = "single_transformer_blocks.#"


def layers(d: int = 3072, double: int = 19, single: int = 38, captions: int = 0) -> Rows:
    """Yield the layers; d: width, captions: how many hidden states of a language model are projected (FIBO)."""
    yield linear("time_embed.timestep_embedder.linear_1", d, 256)
    yield linear("time_embed.timestep_embedder.linear_2", d, d)
    yield linear("context_embedder", d, 4096)
    yield linear("x_embedder", d, 64)
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
    yield linear(f"{T}.ff.net.0.proj", 4 * d, d, times=double)
    yield linear(f"{T}.ff.net.2", d, 4 * d, times=double)
    yield linear(f"{T}.ff_context.net.0.proj", 4 * d, d, times=double)
    yield linear(f"{T}.ff_context.net.2", d, 4 * d, times=double)
    yield linear(f"{U}.norm.linear", 3 * d, d, times=single)
    yield linear(f"{U}.proj_mlp", 4 * d, d, times=single)
    yield linear(f"{U}.proj_out", d, 5 * d, times=single)
    for name in ("norm_q", "norm_k"):
        yield norm(f"{U}.attn.{name}", 128, times=single)
    for name in ("to_q", "to_k", "to_v"):
        yield linear(f"{U}.attn.{name}", d, d, times=single)
    yield linear("norm_out.linear", 2 * d, d)
    yield linear("proj_out", 64, d)
    if captions:
        yield linear("caption_projection.#.linear", d // 2, 2048, bias=False, times=captions)


FAMILY = Family(
    id="bria",
    label="Bria",
    short="Bria",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "D", "single_transformer_blocks": "S"}, last=("proj_out", "norm_out")),
    variants={"3.2": {}, "fibo": {"double": 8, "captions": 46}},
    spellings=("bria", "fibo"),
    written={"modelspec.architecture": "bria-3.2"},
)
