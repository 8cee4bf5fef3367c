"""Wan 2.1 and 2.2 (14B, 1.3B, 5B; text and image to video). Checked against diffusers' WanTransformer3DModel and ComfyUI's names.

Its text encoder (UMT5) has no networks. VACE, Animate and S2V have further blocks, which are not declared.
"""

from dataclasses import replace

from ..family import Blocks, Family, transformer
from ..rows import Rows, conv, layer, linear, norm

B, C = "blocks.#", "condition_embedder"


def layers(d: int, f: int, blocks: int, channels: int = 16, image: bool = False) -> Rows:
    """Yield the layers; f: width of the feed-forward, image: with an embedding of an image (2.1, image to video)."""
    yield conv("patch_embedding", d, 36 if image else channels, (1, 2, 2))
    for name, other, in_ in (("text_embedding", "text_embedder", 4096), ("time_embedding", "time_embedder", 256)):
        yield linear(f"{name}.0", d, in_, f"{C}.{other}.linear_1")
        yield linear(f"{name}.2", d, d, f"{C}.{other}.linear_2")
    yield linear("time_projection.1", 6 * d, d, f"{C}.time_proj")
    for own, other in (("self_attn", "attn1"), ("cross_attn", "attn2")):
        for name, theirs in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0")):
            yield linear(f"{B}.{own}.{name}", d, d, f"{B}.{other}.{theirs}", times=blocks)
        for name in ("norm_q", "norm_k"):
            yield norm(f"{B}.{own}.{name}", d, f"{B}.{other}.{name}", times=blocks)
    yield norm(f"{B}.norm3", d, f"{B}.norm2", True, blocks)
    yield linear(f"{B}.ffn.0", f, d, f"{B}.ffn.net.0.proj", times=blocks)
    yield linear(f"{B}.ffn.2", d, f, f"{B}.ffn.net.2", times=blocks)
    yield layer("Parameter", f"{B}.modulation", (1, 6, d), f"{B}.scale_shift_table", False, blocks)
    if image:
        yield from picture(d, blocks)
    yield layer("Parameter", "head.modulation", (1, 2, d), "scale_shift_table", False)
    yield linear("head.head", 4 * channels, d, "proj_out")


def picture(d: int, blocks: int) -> Rows:
    """Yield the layers that read CLIP's features of an image."""
    other = f"{C}.image_embedder"
    yield norm("img_emb.proj.0", 1280, f"{other}.norm1", True)
    yield linear("img_emb.proj.1", 1280, 1280, f"{other}.ff.net.0.proj")
    yield linear("img_emb.proj.3", d, 1280, f"{other}.ff.net.2")
    yield norm("img_emb.proj.4", d, f"{other}.norm2", True)
    for name in "kv":
        yield linear(f"{B}.cross_attn.{name}_img", d, d, f"{B}.attn2.add_{name}_proj", times=blocks)
    yield norm(f"{B}.cross_attn.norm_k_img", d, f"{B}.attn2.norm_added_k", times=blocks)


_LARGE = {"d": 5120, "f": 13824, "blocks": 40}
_14B = Family(
    id="wan2.1-14b",
    label="Wan 2.1 / 2.2 14B",
    short="Wan",
    components=(transformer(layers),),
    blocks=Blocks({"blocks": "B"}, last=("head",)),
    variants={"t2v": _LARGE, "i2v": _LARGE | {"image": True}},
    size=832,
    spellings=("wan", "wan2114b", "wan2214b", "wanvideo14b", "wan21t2v14b", "wan21i2v14b"),
    written={"ss_base_model_version": "wan2.1_14b", "modelspec.architecture": "wan2.1-14b"},
    wider=("patch_embedding",),
)
_SMALL = {"d": 1536, "f": 8960, "blocks": 30}
FAMILIES = (
    _14B,
    replace(
        _14B, id="wan2.1-1.3b", label="Wan 2.1 1.3B", variants={"t2v": _SMALL, "i2v": _SMALL | {"image": True}},
        spellings=("wan", "wan2113b", "wanvideo13b", "wan21t2v13b"),
        written={"ss_base_model_version": "wan2.1_1.3b", "modelspec.architecture": "wan2.1-1.3b"},
    ),
    replace(
        _14B, id="wan2.2-5b", label="Wan 2.2 5B", variants={"": {"d": 3072, "f": 14336, "blocks": 30, "channels": 48}},
        spellings=("wan", "wan225b", "wan22ti2v5b"), written={"ss_base_model_version": "wan2.2_5b", "modelspec.architecture": "wan2.2-5b"},
    ),
)  # fmt: skip
