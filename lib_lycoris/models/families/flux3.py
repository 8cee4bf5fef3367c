"""Flux.3: five early blocks for each kind of tokens and 28 single blocks, 3072 wide.

Layers checked against diffusers' Flux3Transformer2DModel with the defaults of the class. All names are those of diffusers; files in
another style of this model have not been seen. Text encoders are not declared.
Diffusers has the class since 0.42: data, tested without the class.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear, norm


def layers(d: int = 3072, early: int = 5, single: int = 28) -> Rows:
    """Yield the layers; d: width."""
    yield linear("timestep_embedder.linear_1", d, 256, bias=False)
    yield linear("timestep_embedder.linear_2", d, d, bias=False)
    for kind in ("image", "image_cond", "txt"):
        yield linear(f"early_stream_modulations.{kind}.linear", 3 * d, d, bias=False)
        yield linear(f"single_stream_modulations.{kind}.linear", 3 * d, d, bias=False)
    for kind in ("image", "image_cond"):
        yield linear(f"x_embedders.{kind}", d, 128, bias=False)
        yield from block(f"mode_blocks.{kind}.#", d, early)
    yield linear("context_embedder", d, 20480, bias=False)
    yield from block("txt_mode_blocks.#", d, early)
    yield from block("single_transformer_blocks.#", d, single)
    yield linear("norm_out.linear", 2 * d, d, bias=False)
    yield linear("proj_out", 128, d, bias=False)


def block(path: str, d: int, times: int) -> Rows:
    """Yield the layers of a list of blocks, which are all alike."""
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield linear(f"{path}.attn.{name}", d, d, bias=False, times=times)
    for name in ("norm_q", "norm_k"):
        yield norm(f"{path}.attn.{name}", 128, times=times)
    yield linear(f"{path}.ff.linear_in", 6 * d, d, bias=False, times=times)
    yield linear(f"{path}.ff.linear_out", d, 3 * d, bias=False, times=times)


FAMILY = Family(
    id="flux3",
    label="Flux.3",
    short="Flux.3",
    components=(transformer(layers),),
    blocks=Blocks(
        {"mode_blocks.image": "I", "mode_blocks.image_cond": "C", "txt_mode_blocks": "T", "single_transformer_blocks": "S"},
        last=("proj_out", "norm_out"),
    ),
    spellings=("flux3",),
    written={"modelspec.architecture": "flux-3"},
)
