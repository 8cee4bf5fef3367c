"""Block ids of block weights: which block a parameter belongs to, and the layouts that a list of values can have."""

from __future__ import annotations

from collections.abc import Mapping


def _ids(prefix: str, numbers: range | tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{prefix}{number:02d}" for number in numbers)


# The number of values picks the layout; a block that a layout lacks gets 0.
LAYOUTS: Mapping[int, tuple[str, ...]] = {
    12: ("BASE", *_ids("IN", (4, 5, 7, 8)), "M00", *_ids("OUT", range(6))),
    17: ("BASE", *_ids("IN", (1, 2, 4, 5, 7, 8)), "M00", *_ids("OUT", range(3, 12))),
    20: ("BASE", *_ids("IN", range(9)), "M00", *_ids("OUT", range(9))),
    26: ("BASE", *_ids("IN", range(12)), "M00", *_ids("OUT", range(12))),
    61: ("CLIP", "T5", "IN", *_ids("D", range(19)), *_ids("S", range(38)), "OUT"),
}
_FULL = {"sd1": 26, "sd2": 26, "sdxl": 20, "sdxl-refiner": 26, "flux": 61}
_UNET = {"input_blocks": "IN", "output_blocks": "OUT"}
_TEXT = {
    "flux": {"clip_l": "CLIP", "t5xxl": "T5"},
    "sd3": {"clip_l": "CLIPL", "clip_g": "CLIPG", "t5xxl": "T5"},
}
_TRANSFORMER = {"double_blocks": "D", "single_blocks": "S", "joint_blocks": "J"}
_FLUX_FIRST = ("img_in", "txt_in", "time_in", "vector_in", "guidance_in")
_SD3_FIRST = ("context_embedder", "x_embedder", "t_embedder", "y_embedder", "pos_embed")


def sd3_layout(blocks: int = 24) -> tuple[str, ...]:
    """Give the block ids of an SD3 with this many joint blocks (24; 38 for 3.5 large)."""
    return ("CLIPL", "CLIPG", "T5", "IN", *_ids("J", range(blocks)), "OUT")


def layout(family: str) -> tuple[str, ...]:
    """Give all block ids of a family, in order."""
    return sd3_layout() if family == "sd3" else LAYOUTS[_FULL[family]]


def block_of(name: str, family: str) -> str | None:
    """Give the block id of a canonical module or parameter; None for time and label embeddings and the UNet's head."""
    head, *rest = name.split(".", 3)
    text = _TEXT.get(family)
    if head != "diffusion_model":
        return text.get(head) if text else "BASE"
    section = rest[0].partition("[")[0] if rest else ""
    number = rest[1] if len(rest) > 1 else ""
    if text:
        return _transformer_block(section, number)
    if section == "middle_block":
        return "M00"
    return f"{_UNET[section]}{int(number):02d}" if section in _UNET else None


def _transformer_block(section: str, number: str) -> str | None:
    if section in _TRANSFORMER:
        return f"{_TRANSFORMER[section]}{int(number):02d}"
    if section in _FLUX_FIRST or section in _SD3_FIRST:
        return "IN"
    return "OUT" if section == "final_layer" else None
