"""Bria 3.2 and FIBO: Flux.1's blocks without its embedding of pooled text, 3072 wide.

Layers checked against diffusers' BriaTransformer2DModel and BriaFiboTransformer2DModel; FIBO's released numbers of blocks are not
verified. All names are those of diffusers; files in another style of this model have not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear
from .longcat_image import double_and_single_blocks


def layers(d: int = 3072, double: int = 19, single: int = 38, captions: int = 0) -> Rows:
    """Yield the layers; d: width, captions: how many hidden states of a language model are projected (FIBO)."""
    yield linear("time_embed.timestep_embedder.linear_1", d, 256)
    yield linear("time_embed.timestep_embedder.linear_2", d, d)
    yield linear("context_embedder", d, 4096)
    yield linear("x_embedder", d, 64)
    yield from double_and_single_blocks(d, double, single)
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
