"""ERNIE-Image: 24 blocks, 3072 wide.

Layers checked against diffusers' ErnieImageTransformer2DModel with the defaults of the class. All names are those of diffusers; files in
another style of this model have not been seen. Text encoders are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, conv, linear, norm

B = "layers.#"


def layers(d: int = 3072, f: int = 8192, blocks: int = 24) -> Rows:
    """Yield the layers; d: width, f: of the feed-forward."""
    yield conv("x_embedder.proj", d, 128, (1, 1))
    yield linear("text_proj", d, 2560, bias=False)
    for name in ("linear_1", "linear_2"):
        yield linear(f"time_embedding.{name}", d, d)
    yield linear("adaLN_modulation.1", 6 * d, d)
    yield norm(f"{B}.adaLN_sa_ln", d, times=blocks)
    for name in ("to_q", "to_k", "to_v"):
        yield linear(f"{B}.self_attention.{name}", d, d, bias=False, times=blocks)
    for name in ("norm_q", "norm_k"):
        yield norm(f"{B}.self_attention.{name}", 128, times=blocks)
    yield linear(f"{B}.self_attention.to_out.0", d, d, bias=False, times=blocks)
    yield norm(f"{B}.adaLN_mlp_ln", d, times=blocks)
    for name in ("gate_proj", "up_proj"):
        yield linear(f"{B}.mlp.{name}", f, d, bias=False, times=blocks)
    yield linear(f"{B}.mlp.linear_fc2", d, f, bias=False, times=blocks)
    yield linear("final_norm.linear", 2 * d, d)
    yield linear("final_linear", 128, d)


FAMILY = Family(
    id="ernie-image",
    label="ERNIE-Image",
    short="ERNIE",
    components=(transformer(layers),),
    blocks=Blocks({"layers": "B"}, last=("final_linear", "final_norm")),
    spellings=("ernie",),
    written={"modelspec.architecture": "ernie-image"},
)
