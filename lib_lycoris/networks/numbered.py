"""Pairs without names: cloneofsimo's ``unet:0:up``, whose number is the layer's place in the model.

The order is that of the trainer's search for layers in Stable Diffusion 1 as diffusers 0.10 to 0.14 registered them: down blocks, up
blocks, the middle one; in a block first attention, then feed-forward and second attention, which later versions have the other way round -
the feed-forward's width tells which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..errors import NetworkFormatError

KEY = re.compile(r"(?P<component>unet|text_encoder):(?P<number>\d{1,4}):(?P<half>up|down)")
SUFFIXES = {"up": "lora_up.weight", "down": "lora_down.weight"}
_BLOCKS = (
    *(f"down_blocks.{block}.attentions.{index}" for block in range(3) for index in range(2)),
    *(f"up_blocks.{block}.attentions.{index}" for block in range(1, 4) for index in range(3)),
    "mid_block.attentions.0",
)
_FIRST, _SECOND = ([f"attn{number}.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")] for number in (1, 2))
_FEED_FORWARD = "ff.net.0.proj"
_TEXT = [f"text_model.encoder.layers.{layer}.self_attn.{name}_proj" for layer in range(12) for name in ("k", "v", "q", "out")]


def names(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[str, str]]:
    """Return key -> (module, suffix) of numbered keys. Raises NetworkFormatError for a number of pairs whose order is not known."""
    found: dict[str, tuple[str, str]] = {}
    for component in ("unet", "text_encoder"):
        numbered = {key: match for key in shapes if (match := KEY.fullmatch(key)) and match["component"] == component}
        if numbered:
            modules = _modules(component, len({match["number"] for match in numbered.values()}), shapes)
            for key, match in numbered.items():
                number = int(match["number"])
                if number >= len(modules):
                    raise NetworkFormatError(f"{key} has a number beyond the {len(modules)} pairs that the file holds")
                found[key] = (f"{component}.{modules[number]}", SUFFIXES[match["half"]])
    return found


def _modules(component: str, pairs: int, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    if component == "text_encoder" and pairs == len(_TEXT):
        return _TEXT
    inner = [*_FIRST, _FEED_FORWARD, *_SECOND] if pairs == 9 * len(_BLOCKS) else [*_FIRST, *_SECOND]
    if component == "unet" and pairs == len(inner) * len(_BLOCKS):
        rows = [tuple(shapes.get(f"unet:{number}:up", ())) for number in (4, 8)]
        if len(inner) == 9 and rows[1] > rows[0]:
            inner = [*_FIRST, *_SECOND, _FEED_FORWARD]
        return [f"{block}.transformer_blocks.0.{name}" for block in _BLOCKS for name in inner]
    raise NetworkFormatError(
        f"it is a list of {pairs} pairs without names for the {component}; only the usual lists of Stable Diffusion 1 are known"
    )
