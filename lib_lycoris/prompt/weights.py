"""Block weights as typed: a list of values whose count picks the layout of blocks."""

from __future__ import annotations

import re
from random import Random
from typing import Literal

from ..errors import PromptError
from ..models.blocks import LAYOUTS
from ..records import dataclass
from .number import format_number, is_number, parse_number

COUNTS = tuple(sorted(LAYOUTS))
_X = re.compile(r"X\s*(?:([+-])\s*(\S+))?")


@dataclass(frozen=True)
class Cell:
    """One value of a list: a number, `R` (random 0..1), `U` (random -0.5..1.5) or `X` plus `amount`."""

    kind: Literal["number", "R", "U", "X"]
    amount: float = 0.0

    def value(self, draw: float, x: float) -> float:
        """Return the weight for a random `draw` in [0, 1) and the tag's `x`; random weights have three digits."""
        if self.kind == "R":
            return round(draw, 3)
        if self.kind == "U":
            return round(draw * 2.0 - 0.5, 3)
        return x + self.amount if self.kind == "X" else self.amount

    def format(self) -> str:
        """Write the value as it is typed."""
        if self.kind == "number":
            return format_number(self.amount)
        if self.kind == "X" and self.amount:
            return f"X{'-' if self.amount < 0 else '+'}{format_number(abs(self.amount))}"
        return self.kind


@dataclass(frozen=True)
class BlockWeights:
    """The values of one layout, in its order."""

    cells: tuple[Cell, ...]

    @property
    def is_random(self) -> bool:
        """Whether the image's seed matters."""
        return any(cell.kind in ("R", "U") for cell in self.cells)

    def ratios(self, seed: int | str, x: float = 1.0) -> dict[str, float]:
        """Return block id -> ratio; the same seed always draws the same random values."""
        # One draw a cell, random or not: making another cell random leaves the first one's value alone.
        random = Random(str(seed))
        blocks = LAYOUTS[len(self.cells)]
        return {block: cell.value(random.random(), x) for block, cell in zip(blocks, self.cells, strict=True)}

    def format(self) -> str:
        """Write the values as they are typed after `lbw=`."""
        return ",".join(cell.format() for cell in self.cells)


def parse_weights(text: str) -> BlockWeights:
    """Read a comma list of weights; raise PromptError if a value is bad or no layout has that many."""
    pieces = text.split(",")
    if len(pieces) not in LAYOUTS:
        counts = ", ".join(map(str, COUNTS[:-1])) + f" or {COUNTS[-1]}"
        given = "1 value" if len(pieces) == 1 else f"{len(pieces)} values"
        raise PromptError(f"block weights have {counts} values, or are the name of a preset, but {given} came")
    return BlockWeights(tuple(_parse_cell(piece.strip()) for piece in pieces))


def parse_weights_or_preset(text: str) -> BlockWeights | str:
    """Read what stands after `lbw=`: a list of weights, or a preset's name, returned as it is."""
    if "," in text or is_number(text):
        return parse_weights(text)
    if not text.strip():
        raise PromptError("the block weights are empty; give a preset's name or a list of weights")
    return text.strip()


def is_weight_list(text: str) -> bool:
    """Say whether a text has the shape of a list of weights for some layout."""
    return not re.search("[@~;]", text) and len(text.split(",")) in LAYOUTS


def _parse_cell(piece: str) -> Cell:
    if piece == "R":
        return Cell("R")
    if piece == "U":
        return Cell("U")
    what = "a block weight (a number, R, U, X, X+0.2 or X-0.2)"
    match = _X.fullmatch(piece)
    if not match:
        return Cell("number", parse_number(piece, what))
    sign, offset = match.groups()
    return Cell("X", parse_number(f"{sign}{offset}", what) if sign else 0.0)
