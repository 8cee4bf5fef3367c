"""LTX-2: 48 blocks of a video stream, 4096 wide, and an audio stream, 2048 wide.

Layers checked against diffusers' LTX2VideoTransformer3DModel; original names as in LTX-Video, those of the cross-modal embedders not
verified. Its text encoder (Gemma 3) is not declared.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, linear, norm

B = "transformer_blocks.#"


def layers(d: int = 4096, a: int = 2048, blocks: int = 48) -> Rows:
    """Yield the layers; d: width of the video stream, a: of the audio stream."""
    for stream, width in (("", d), ("audio_", a)):
        yield linear(f"{stream}patchify_proj", width, 128, f"{stream}proj_in")
        yield linear(f"{stream}caption_projection.linear_1", width, 3840)
        yield linear(f"{stream}caption_projection.linear_2", width, width)
        yield from time_embedding(f"{stream}adaln_single", f"{stream}time_embed", width, 6)
        yield from attention(f"{stream}attn1", width, width, width, blocks)
        yield from attention(f"{stream}attn2", width, width, width, blocks)
        yield linear(f"{B}.{stream}ff.net.0.proj", 4 * width, width, times=blocks)
        yield linear(f"{B}.{stream}ff.net.2", width, 4 * width, times=blocks)
        yield linear(f"{stream}proj_out", 128, width)
    for name, width, parts in (
        ("video_scale_shift", d, 4),
        ("audio_scale_shift", a, 4),
        ("video_a2v_gate", d, 1),
        ("audio_v2a_gate", a, 1),
    ):
        yield from time_embedding(f"av_cross_attn_{name}", f"av_cross_attn_{name}", width, parts)
    yield from attention("audio_to_video_attn", a, d, a, blocks)
    yield from attention("video_to_audio_attn", a, a, d, blocks)


def time_embedding(own: str, other: str, width: int, parts: int) -> Rows:
    """Yield an embedding of time and the modulations that it gives."""
    yield linear(f"{own}.emb.timestep_embedder.linear_1", width, 256, f"{other}.emb.timestep_embedder.linear_1")
    yield linear(f"{own}.emb.timestep_embedder.linear_2", width, width, f"{other}.emb.timestep_embedder.linear_2")
    yield linear(f"{own}.linear", parts * width, width, f"{other}.linear")


def attention(path: str, inner: int, queries: int, keys: int, times: int) -> Rows:
    """Yield an attention; inner: its width, queries: width of the stream that asks, keys: of the one that is asked."""
    for letter in "qk":
        yield norm(f"{B}.{path}.{letter}_norm", inner, f"{B}.{path}.norm_{letter}", times=times)
    yield linear(f"{B}.{path}.to_q", inner, queries, times=times)
    yield linear(f"{B}.{path}.to_k", inner, keys, times=times)
    yield linear(f"{B}.{path}.to_v", inner, keys, times=times)
    yield linear(f"{B}.{path}.to_out.0", queries, inner, times=times)


FAMILY = Family(
    id="ltx2",
    label="LTX-2",
    short="LTX-2",
    components=(transformer(layers),),
    blocks=Blocks({"transformer_blocks": "B"}, last=("proj_out", "audio_proj_out")),
    spellings=(
        "ltx2",
        "ltxv2",
        "ltxvideo2",
    ),
    written={"modelspec.architecture": "ltx-2"},
)
