"""Element filters (`lbwe`): rules that replace the ratio of the modules whose name and block they match."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from ..errors import PromptError
from ..models.blocks import LAYOUTS, layout_of_all
from ..models.families import FAMILIES
from ..records import dataclass
from .number import format_number, parse_number


@dataclass(frozen=True)
class ElementRule:
    """`BLOCKS:ELEMENTS:RATIO`: lists of words split by spaces, a leading NOT inverts, an empty list matches all."""

    blocks: str
    elements: str
    ratio: float

    def matches(self, text: str, family: str | None = None) -> bool:
        """Say whether both lists hit a text made of a module's flat name and its block id in a family."""
        return _hit(expand_blocks(self.blocks, family), text) and _hit(_words(self.elements), text)

    def format(self) -> str:
        """Write the rule as it is typed."""
        return f"{self.blocks}:{self.elements}:{format_number(self.ratio)}"


def parse_rule(text: str) -> ElementRule:
    """Read one `BLOCKS:ELEMENTS:RATIO`; raise PromptError on another shape, a bad ratio or an unknown range."""
    pieces = text.split(":")
    if len(pieces) != 3:
        raise PromptError(f'"{text.strip()}" is not an element filter; write BLOCKS:ELEMENTS:RATIO, as IN05:attn:0')
    blocks, elements = (" ".join(piece.split()) for piece in pieces[:2])
    for side in (expand_blocks(blocks), _words(elements)):
        if side[0] and not side[1]:
            raise PromptError(f'"{text.strip()}" has NOT with nothing after it; name what is left out')
    return ElementRule(blocks, elements, parse_number(pieces[2], "the ratio of an element filter"))


def ratio_after(rules: Sequence[ElementRule], text: str, ratio: float, family: str | None = None) -> float:
    """Return the ratio of the last rule that matches in a family, or `ratio` if none does."""
    for rule in reversed(rules):
        if rule.matches(text, family):
            return rule.ratio
    return ratio


@lru_cache(maxsize=256)  # asked once for every parameter of a model
def expand_blocks(text: str, family: str | None = None) -> tuple[bool, tuple[str, ...]]:
    """Return (inverted, words) of a list of blocks with its `A-B` ranges written out, along a family's blocks, and MID read as M00."""
    inverted, words = _words(text)
    return inverted, tuple(block for word in words for block in _expand(word, family))


def _orders(family: str | None) -> Iterator[Sequence[str]]:
    """Yield what ranges may run along: the family's own blocks, the layouts that tags are typed for, then every other family's."""
    if family is not None:
        yield layout_of_all(family)
    yield from (LAYOUTS[26], LAYOUTS[61])
    yield from map(layout_of_all, FAMILIES)


def _expand(word: str, family: str | None) -> Sequence[str]:
    if "-" not in word:
        return ("M00" if word == "MID" else word,)
    first, _, last = (re.sub("^MID$", "M00", end) for end in word.partition("-"))
    for order in _orders(family):
        if first in order and last in order:
            low, high = sorted((order.index(first), order.index(last)))
            return order[low : high + 1]
    raise PromptError(f'"{word}" is not a range of blocks; give two blocks of one model, such as IN05-OUT05 or D00-D18')


def _words(text: str) -> tuple[bool, tuple[str, ...]]:
    words = tuple(text.split())
    inverted = bool(words) and words[0] == "NOT"
    return inverted, words[1:] if inverted else words


def _hit(part: tuple[bool, tuple[str, ...]], text: str) -> bool:
    inverted, words = part
    return not words or any(word in text for word in words) != inverted
