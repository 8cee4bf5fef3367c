"""The sliders of the page Block weight as values: layouts, what the buttons do to them, undo, and the tag that says them shortest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Union

from ...errors import LycorisError, PromptError, ToolError
from ...models.blocks import LAYOUTS, layout, sd3_layout
from ...models.families import FAMILIES
from ...prompt import BlockWeights, Cell, ElementRule, Presets, Schedule, Tag, TagError, escape_name, find_tags
from ...prompt.number import format_number, parse_number

LABELS = {
    17: "SD 1/2: attention (17)", 26: "SD 1/2: full set (26)", 12: "SDXL: attention (12)", 20: "SDXL: full set (20)",
    61: "Flux: full set (61)", 29: "SD3 medium: all (29)", 43: "SD3.5 large: all (43)",
}  # fmt: skip
SD3_COUNTS = (29, 43)  # medium, 3.5 large
WHOLE = {max(told.blocks.counts) for told in FAMILIES.values() if told.blocks.counts} | {SD3_COUNTS[0]}  # as many as a whole model has
KEPT = 50  # steps that can be undone
Weights = Union[BlockWeights, tuple[ElementRule, ...], None]


def blocks_of(count: int) -> tuple[str, ...]:
    """Return the blocks of a layout by the number of its values; SD3's have no values in a tag and are written as element filters."""
    return LAYOUTS[count] if count in LAYOUTS else sd3_layout(count - 5)


@dataclass(frozen=True)
class BlockValues:
    """The sliders at one moment. Values are kept by block, so that a change of the layout and back loses none."""

    count: int = 26  # of the layout that is shown
    values: Mapping[str, float] = field(default_factory=dict)  # block -> weight; 1 where nothing was set
    touched: Mapping[str, int] | None = None  # block -> parameters that the chosen network changes; None without a network
    history: tuple[Mapping[str, float], ...] = ()
    latest: str = ""  # the block that the last change was of, if of one

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks that are shown, in the order of their values."""
        return blocks_of(self.count)

    @property
    def shown(self) -> tuple[float, ...]:
        """Their values."""
        return tuple(self.values.get(block, 1.0) for block in self.blocks)

    @property
    def text(self) -> str:
        """The values as they are typed."""
        return ",".join(map(format_number, self.shown))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Blocks that the network changes and the layout lacks: with block weights they get 0."""
        return tuple(block for block in self.touched or () if block not in self.blocks and block != "-")

    def is_touched(self, block: str) -> bool:
        """Tell whether the chosen network changes something in a block; True as long as no network is chosen."""
        return self.touched is None or block in self.touched

    def with_values(self, values: Sequence[float]) -> BlockValues:
        """Return the sliders with the shown blocks at these values; changes of one block in a row are undone together."""
        changed = [block for block, old, new in zip(self.blocks, self.shown, values) if old != new]
        if not changed:
            return self
        new = {**self.values, **dict(zip(self.blocks, values))}
        same = len(changed) == 1 and changed[0] == self.latest
        history = self.history if same else (*self.history, self.values)[-KEPT:]
        return replace(self, values=new, history=history, latest=changed[0] if len(changed) == 1 else "")

    def undone(self) -> BlockValues:
        """Return the sliders before its last change."""
        if not self.history:
            return self
        return replace(self, values=self.history[-1], history=self.history[:-1], latest="")

    def all_at(self, value: float) -> BlockValues:
        """Return the sliders with every block at a value."""
        return self.with_values([value] * self.count)

    def inverted(self) -> BlockValues:
        """Return the sliders with 1 - weight everywhere."""
        return self.with_values([round(1.0 - value, 6) + 0.0 for value in self.shown])

    def mirrored(self) -> BlockValues:
        """Return the sliders with every decoder block at the weight of the encoder block that it has a connection from."""
        pairs = {decoder: encoder for encoder, decoder in rows(self.count) if encoder and decoder}
        found = dict(zip(self.blocks, self.shown))
        return self.with_values([found[pairs.get(block, block)] for block in self.blocks])

    def for_network(self, family: str, touched: Mapping[str, int]) -> BlockValues:
        """Return the sliders in the layout that a network needs: the short one if that holds every block that it changes."""
        return replace(self, count=layout_for(family, touched), touched=touched)


def layout_for(family: str, touched: Mapping[str, int]) -> int:
    """Return the number of values that fits a network of a family."""
    told = FAMILIES[family]
    if layout(family) == sd3_layout():
        return next(count for count in SD3_COUNTS if set(touched) <= {*blocks_of(count), "-"})
    fitting = [count for count in told.blocks.counts if all(block in LAYOUTS[count] for block in touched if block != "-")]
    if not told.blocks.counts:
        raise ToolError(f"there are no sliders for the blocks of {told.label}; write element filters in the tag (lbwe=...) for it")
    return min(fitting, default=told.blocks.counts[0])


def rows(count: int) -> list[tuple[str, str]]:
    """Return (encoder block, decoder block) of every level from the top down, empty where the layout lacks one; none for transformers."""
    depth = {17: 12, 26: 12, 12: 9, 20: 9}.get(count, 0)
    blocks = blocks_of(count)
    found = [(f"IN{i:02}", f"OUT{depth - 1 - i:02}") for i in range(depth)]
    kept = [tuple(block if block in blocks else "" for block in pair) for pair in found]
    return [(encoder, decoder) for encoder, decoder in kept if encoder or decoder]


def with_text(sliders: BlockValues, text: str) -> BlockValues:
    """Return sliders at the values of a text, in the layout that has so many. Raises PromptError for a text that no layout has."""
    values = read_values(text, sliders.count)
    return replace(sliders, count=len(values)).with_values(values)


def read_values(text: str, needed: int) -> list[float]:
    """Read typed values; raise PromptError for a count that is no layout, or a value that is no number. needed: of the layout shown."""
    pieces = text.strip().replace(";", ",").replace("\n", ",").split(",")
    if len(pieces) not in LABELS:
        raise PromptError(f"{len(pieces)} {'value' if len(pieces) == 1 else 'values'} given; this layout needs {needed}.")
    return [parse_number(piece, "a block weight") for piece in pieces]


def weights_of(sliders: BlockValues) -> Weights:
    """Return what the sliders say, as a tag takes it; None where that is no more than strength 1 everywhere."""
    whole = sliders.count in WHOLE if sliders.touched is None else not sliders.left_out
    if set(sliders.shown) == {1.0} and whole:
        return None
    if sliders.count in LAYOUTS:
        return BlockWeights(tuple(Cell("number", value) for value in sliders.shown))
    by_value: dict[float, list[str]] = {}
    for block, value in zip(sliders.blocks, sliders.shown):
        if sliders.is_touched(block) and value != 1:
            by_value.setdefault(value, []).append(block)
    return tuple(ElementRule(" ".join(_ranges(found)), "", value) for value, found in by_value.items()) or None


def _ranges(blocks: Sequence[str]) -> list[str]:
    """Write neighbouring numbered blocks as A-B; the others stay alone, since ranges through them mean another model's blocks."""
    found: list[list[str]] = []
    for block in blocks:
        last = found[-1][-1] if found else ""
        if block[:1] == last[:1] == "J" and int(block[1:]) == int(last[1:]) + 1:
            found[-1].append(block)
        else:
            found.append([block])
    return [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found]


def fitting_presets(presets: Presets, count: int) -> dict[str, BlockWeights]:
    """Return the presets of one layout by name; those that cannot be read are left out, a tag with such a name is told about."""
    found = {}
    for name in presets.weight_names:
        try:
            weights = presets.weights(name)
        except LycorisError:
            continue
        if len(weights.cells) == count:
            found[name] = weights
    return found


def name_of(sliders: BlockValues, presets: Presets) -> str | None:
    """Return the shortest name of the presets that have just these values."""
    found = (name for name, weights in fitting_presets(presets, sliders.count).items() if fixed(weights) == sliders.shown)
    return min(found, key=len, default=None)


def fixed(weights: BlockWeights) -> tuple[float, ...] | None:
    """Return a preset's values; None for random ones, which no slider can show."""
    return None if weights.is_random else tuple(weights.ratios(0).values())


def tag_of(
    sliders: BlockValues, name: str, presets: Presets | None, te: float | None = 1, unet: float | None = 1, start: float | None = None,
    stop: float | None = None,
) -> str:  # fmt: skip
    """Return the shortest tag that means the sliders and these fields; raise TagError for fields that make none.

    Without presets it is written in numbers.
    """
    name = escape_name(name)
    weights = weights_of(sliders)
    if isinstance(weights, tuple):
        plain = _tag(name, te, unet, start, stop, elements=weights)
    else:
        plain = _tag(name, te, unet, start, stop, weights=weights)
    text = plain.format()
    preset = name_of(sliders, presets) if presets is not None and isinstance(weights, BlockWeights) else None
    if preset is not None:
        named = _tag(name, te, unet, start, stop, weights=preset)
        # a name from a file of other people may hold anything; one that does not come back out of a tag is not used
        if len(named.format()) < len(text) and find_tags(named.format())[1] == [named]:
            return named.format()
    for found in find_tags(text)[1]:
        if isinstance(found, TagError):
            raise found
    return text


def _tag(
    name: str, te: float | None, unet: float | None, start: float | None, stop: float | None, *,
    weights: str | BlockWeights | None = None, elements: tuple[ElementRule, ...] | None = None,
) -> Tag:  # fmt: skip
    if te is None or unet is None:
        raise ToolError("text encoder and UNet need a strength each; 1 is what was trained")
    strengths = [Schedule.constant(float(value)) for value in (te, unet)]
    # steps count from 1: a field that is empty or 0 asks for nothing
    first, last = (int(step) if step else None for step in (start, stop))
    return Tag.of(name, *strengths, weights=weights, elements=elements, start=first, stop=last)
