"""Ovis-Image: Flux.1's blocks with gated feed-forwards, 6 double and 27 single ones, 3072 wide.

Layers checked against diffusers' OvisImageTransformer2DModel. All names are those of diffusers; files in another style of this model have
not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear, norm
from .longcat_image import double_and_single_blocks


def layers(d: int = 3072, double: int = 6, single: int = 27) -> Rows:
    """Yield the layers; d: width."""
    yield linear("timestep_embedder.linear_1", d, 256)
    yield linear("timestep_embedder.linear_2", d, d)
    yield norm("context_embedder_norm", 2048)
    yield linear("context_embedder", d, 2048)
    yield linear("x_embedder", d, 64)
    yield from double_and_single_blocks(d, double, single, gate=2)


FAMILY = Family(
    id="ovis-image",
    label="Ovis-Image",
    short="Ovis",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "D", "single_transformer_blocks": "S"}, last=("proj_out", "norm_out")),
    spellings=("ovis",),
    written={"modelspec.architecture": "ovis-image"},
)
