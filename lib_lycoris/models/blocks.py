"""Block ids of block weights: which block a parameter belongs to, and the layouts that a list of values can have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from .families import FAMILIES, UNET_PREFIX
from .family import Family


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

_NUMBERED = re.compile(r"(?P<section>.*?)\.(?P<number>\d{1,6})(\.|$)")  # the list of blocks that a name begins with, and the place in it


@cache
def layout(family: str, variant: str | None = None) -> tuple[str, ...]:
    """Give all block ids of a variant (default: the first), in order."""
    told = FAMILIES[family]
    return _layout(told, [variant if variant is not None else next(iter(told.variants))])


@cache
def layout_of_all(family: str) -> tuple[str, ...]:
    """Give the block ids that any variant of a family has, in order."""
    return _layout(FAMILIES[family], FAMILIES[family].variants)


def _layout(told: Family, variants: Iterable[str]) -> tuple[str, ...]:
    if told.blocks.counts:
        return LAYOUTS[told.blocks.counts[0]]
    unet = next(component for component in told.components if component.key == "unet")
    lengths: dict[str, int] = {}
    for row in (row for variant in variants for row in told.rows(unet, variant)):
        section = row.section.removesuffix(".")
        lengths[section] = max(lengths.get(section, 0), max(row.numbers, default=-1) + 1)
    texts = [component.block for component in told.components if component.key != "unet"]
    numbered = [name for section, letter in told.blocks.sections.items() for name in _ids(letter, range(lengths.get(section, 0)))]
    first, last = ((told.blocks.first,) if told.blocks.first else ()), (("OUT",) if told.blocks.last else ())
    return (*dict.fromkeys(texts), *first, *numbered, *last)


def block_of(name: str, family: str) -> str | None:
    """Give the block id of a canonical module or parameter; None for what no block weight reaches, as the time embedding of a UNet."""
    told = FAMILIES[family]
    texts = [item for item in told.components if item.key != "unet"]
    text = next((item for item in texts if name.startswith(item.prefix)), None)
    if text is None and not name.startswith(UNET_PREFIX):
        text = next((item for item in texts if name.partition(".")[0] == item.prefix.partition(".")[0]), None)
    if text is not None or not name.startswith(UNET_PREFIX):
        return text.block if text else None
    path = name[len(UNET_PREFIX) :].partition("[")[0]
    found = _NUMBERED.match(path)
    letter = told.blocks.sections.get(found["section"]) if found else None
    if found and letter is not None:
        return letter if letter[-1].isdigit() else f"{letter}{int(found['number']):02d}"
    return "OUT" if path.partition(".")[0] in told.blocks.last else told.blocks.first
