"""GLM-Image: 30 blocks, 2560 wide.

Layers checked against diffusers' GlmImageTransformer2DModel with the defaults of the class: the released widths are not verified. All
names are those of diffusers; files in another style of this model have not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, layer, linear
from .cogview4 import joint_blocks


def layers(d: int = 2560, t: int = 512, blocks: int = 30) -> Rows:
    """Yield the layers; d: width, t: of the embedding of time."""
    yield linear("image_projector.proj", d, 64)
    yield linear("glyph_projector.net.#.proj", d, 1472, times=1)
    yield linear("glyph_projector.net.2", d, d)
    yield layer("Embedding", "prior_token_embedding", (16384, d), bias=False)
    yield linear("prior_projector.net.#.proj", d, d, times=1)
    yield linear("prior_projector.net.2", d, d)
    for name in ("linear_1", "linear_2"):
        yield linear(f"time_condition_embed.timestep_embedder.{name}", t, t)
    yield linear("time_condition_embed.condition_embedder.linear_1", t, 1024)
    yield linear("time_condition_embed.condition_embedder.linear_2", t, t)
    yield from joint_blocks(d, t, blocks)


FAMILY = Family(
    id="glm-image",
    label="GLM-Image",
    short="GLM-Image",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "B"}, last=("proj_out", "norm_out")),
    spellings=("glmimage",),
    written={"modelspec.architecture": "glm-image"},
)
