"""ERNIE-Image: 36 blocks, 4096 wide.

Layers checked against diffusers' ErnieImageTransformer2DModel, sizes against the config of the published model in Forge Neo; the smaller
variant is what the class makes when it is told no sizes. All names are those of diffusers. Its text encoder (Ministral 3) is not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, conv, linear, norm

B = "layers.#"


def layers(d: int = 4096, f: int = 12288, blocks: int = 36, text: int = 3072) -> Rows:
    """Yield the layers; d: width, f: of the feed-forward, text: of the text's features."""
    yield conv("x_embedder.proj", d, 128, (1, 1))
    yield linear("text_proj", d, text, bias=False)
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
    variants={"small": {"d": 3072, "f": 8192, "blocks": 24, "text": 2560}, "": {}},  # the class' own sizes first, as for every family
    spellings=("ernie",),
    written={"modelspec.architecture": "ernie-image"},
)
