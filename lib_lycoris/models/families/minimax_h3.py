"""MiniMax H3: 50 blocks.

Layers checked against diffusers' MiniMaxH3Transformer3DModel with the defaults of the class. All names are those of diffusers; files in
another style of this model have not been seen. Text encoders are not declared.
Diffusers has the class since 0.42: data, tested without the class.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear, norm

B = "transformer_blocks.#"


def layers(d: int = 5376, blocks: int = 50) -> Rows:
    """Yield the layers; d: width."""
    yield linear("proj_in", d, 96)
    yield linear("audio_proj_in", d, 32)
    yield linear("context_embedder", d, 5120)
    yield linear("time_embedder.linear_1", d, 256)
    yield linear("time_embedder.linear_2", 2688, d)
    yield norm("token_refiner.refiner_blocks.#.norm1", d, times=2)
    for name in ("to_q", "to_k", "to_v"):
        yield linear(f"token_refiner.refiner_blocks.#.attn.{name}", 7168, d, bias=False, times=2)
    for name in ("norm_q", "norm_k"):
        yield norm(f"token_refiner.refiner_blocks.#.attn.{name}", 128, times=2)
    yield linear("token_refiner.refiner_blocks.#.attn.to_out.0", d, 7168, bias=False, times=2)
    yield norm("token_refiner.refiner_blocks.#.norm2", d, times=2)
    yield linear("token_refiner.refiner_blocks.#.ff.net.0.proj", 28672, d, bias=False, times=2)
    yield linear("token_refiner.refiner_blocks.#.ff.net.2", d, 14336, bias=False, times=2)
    yield norm("token_refiner.final_norm", d)
    yield norm(f"{B}.norm1", d, times=blocks)
    for name in ("to_q", "to_k", "to_v"):
        yield linear(f"{B}.attn.{name}", 7168, d, bias=False, times=blocks)
    for name in ("norm_q", "norm_k"):
        yield norm(f"{B}.attn.{name}", 128, times=blocks)
    yield linear(f"{B}.attn.to_out.0", d, 7168, bias=False, times=blocks)
    yield norm(f"{B}.norm2", d, times=blocks)
    yield linear(f"{B}.ff.net.0.proj", 28672, d, bias=False, times=blocks)
    yield linear(f"{B}.ff.net.2", d, 14336, bias=False, times=blocks)
    yield linear(f"{B}.adaln_proj.linear", 18 * d, 2688, times=blocks)
    yield norm("norm_out.norm", d)
    yield linear("norm_out.linear", 2 * d, 2688)
    yield linear("proj_out", 96, d)
    yield linear("audio_proj_out", 32, d)


FAMILY = Family(
    id="minimax-h3",
    label="MiniMax H3",
    short="MiniMax H3",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "B"}, last=("proj_out", "norm_out")),
    spellings=("minimax",),
    written={"modelspec.architecture": "minimax-h3"},
)
