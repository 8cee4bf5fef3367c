"""Chroma 1: Flux.1 without modulations of its own; a small network makes them all. Checked against diffusers' ChromaTransformer2DModel."""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear, norm
from ..text_encoders import T5_ALONE
from .flux import ALSO, double_blocks, final_layer, single_blocks

G = "distilled_guidance_layer"


def layers(d: int = 3072, hidden: int = 5120) -> Rows:
    """Yield the layers; hidden: width of the network that makes the modulations."""
    yield linear("img_in", d, 64, "x_embedder")
    yield linear("txt_in", d, 4096, "context_embedder")
    yield linear(f"{G}.in_proj", hidden, 64)
    yield linear(f"{G}.layers.#.in_layer", hidden, hidden, f"{G}.layers.#.linear_1", times=5)
    yield linear(f"{G}.layers.#.out_layer", hidden, hidden, f"{G}.layers.#.linear_2", times=5)
    yield norm(f"{G}.norms.#", hidden, times=5)
    yield linear(f"{G}.out_proj", d, hidden)
    yield from double_blocks(d, 19, modulations=False)
    yield from single_blocks(d, 38, modulations=False)
    yield from final_layer(d, modulations=False)


FAMILY = Family(
    id="chroma",
    label="Chroma",
    short="Chroma",
    components=(transformer(layers, ALSO), T5_ALONE),
    blocks=Blocks({"double_blocks": "D", "single_blocks": "S"}),
    spellings=("chroma",),
    written={"modelspec.architecture": "chroma"},
    wider=("img_in",),
)
