"""HiDream I1 (and E1): 16 double and 32 single blocks with four experts, 2560 wide.

Layers checked against diffusers' HiDreamImageTransformer2DModel with I1's configuration, and with the 64 channels that the class has by
default; original and diffusers names are the same. Text encoders (CLIP, T5, Llama) are not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear, norm

D = "double_stream_blocks.#.block"
S = "single_stream_blocks.#.block"
EXPERT, SHARED = 6912, 3584  # widths of the feed-forwards


def layers(d: int = 2560, double: int = 16, single: int = 32, patch: int = 64) -> Rows:
    """Yield the layers; d: width, patch: numbers of a patch of 2 x 2."""
    yield linear("t_embedder.timestep_embedder.linear_1", d, 256)
    yield linear("t_embedder.timestep_embedder.linear_2", d, d)
    yield linear("p_embedder.pooled_embedder.linear_1", d, 2048)
    yield linear("p_embedder.pooled_embedder.linear_2", d, d)
    yield linear("x_embedder.proj", d, patch)
    yield linear("caption_projection.#.linear", d, 4096, bias=False, times=double + single + 1)
    yield linear(f"{D}.adaLN_modulation.1", 12 * d, d, times=double)
    yield from attention(D, d, double, "")
    yield from attention(D, d, double, "_t")
    yield from experts(D, d, double)
    yield from feed_forward(f"{D}.ff_t", d, EXPERT, double)
    yield linear(f"{S}.adaLN_modulation.1", 6 * d, d, times=single)
    yield from attention(S, d, single, "")
    yield from experts(S, d, single)
    yield linear("final_layer.linear", patch, d)
    yield linear("final_layer.adaLN_modulation.1", 2 * d, d)


def attention(block: str, d: int, times: int, stream: str) -> Rows:
    """Yield the attention's layers of one stream of a list of blocks."""
    for name in ("to_q", "to_k", "to_v", "to_out"):
        yield linear(f"{block}.attn1.{name}{stream}", d, d, times=times)
    for name in ("q_rms_norm", "k_rms_norm"):
        yield norm(f"{block}.attn1.{name}{stream}", d, times=times)


def experts(block: str, d: int, times: int) -> Rows:
    """Yield the shared experts, four others, and the gate between them."""
    yield from feed_forward(f"{block}.ff_i.shared_experts", d, SHARED, times)
    for number in range(4):
        yield from feed_forward(f"{block}.ff_i.experts.{number}", d, EXPERT, times)
    yield linear(f"{block}.ff_i.gate", 4, d, bias=False, times=times)


def feed_forward(path: str, d: int, f: int, times: int) -> Rows:
    """Yield a gated feed-forward of width f."""
    for name in ("w1", "w3"):
        yield linear(f"{path}.{name}", f, d, bias=False, times=times)
    yield linear(f"{path}.w2", d, f, bias=False, times=times)


FAMILY = Family(
    id="hidream",
    label="HiDream",
    short="HiDream",
    components=(transformer(layers),),
    variants={"64-channel": {"patch": 256}, "16-channel": {}},  # the class' own sizes first, as for every family
    blocks=Blocks({"double_stream_blocks": "D", "single_stream_blocks": "S"}),
    spellings=("hidream",),
    written={"modelspec.architecture": "hidream-i1"},
)
