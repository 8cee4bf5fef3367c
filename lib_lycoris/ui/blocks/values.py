"""The sliders of the page Block weight as values: layouts, what the buttons do to them, undo, and the tag that says them shortest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Union

from ...errors import LycorisError, PromptError, ToolError
from ...models.families import FAMILIES
from ...prompt import BlockWeights, Cell, ElementRule, Presets, Schedule, Tag, TagError, escape_name, find_tags
from ...prompt.number import format_number, parse_number
from ...records import dataclass
from ...wording import counted
from .layouts import LISTED, Layout, layout_for

KEPT = 50  # steps that can be undone
Weights = Union[BlockWeights, tuple[ElementRule, ...], None]


@dataclass(frozen=True)
class BlockValues:
    """The sliders at one moment. Values are kept by block, so that a change of the layout and back loses none."""

    layout: Layout = LISTED[26]  # the one that is shown
    values: Mapping[str, float] = field(default_factory=dict)  # block -> weight; 1 where nothing was set
    touched: Mapping[str, int] | None = None  # block -> parameters that the chosen network changes; None without a network
    history: tuple[Mapping[str, float], ...] = ()
    latest: str = ""  # the block that the last change was of, if of one

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks that are shown, in the order of their values."""
        return self.layout.blocks

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
        return self.with_values([value] * len(self.blocks))

    def inverted(self) -> BlockValues:
        """Return the sliders with 1 - weight everywhere."""
        return self.with_values([round(1.0 - value, 6) + 0.0 for value in self.shown])

    def mirrored(self) -> BlockValues:
        """Return the sliders with every decoder block at the weight of the encoder block that it has a connection from."""
        pairs = {decoder: encoder for encoder, decoder in rows(self.layout) if encoder and decoder}
        found = dict(zip(self.blocks, self.shown))
        return self.with_values([found[pairs.get(block, block)] for block in self.blocks])

    def with_preset(self, values: Mapping[str, float]) -> BlockValues:
        """Return the sliders at a preset's values, in the shown layout if that has all its blocks; the others get 0, as in a tag."""
        layout = self.layout if set(values) <= set(self.blocks) else LISTED[len(values)]
        return replace(self, layout=layout).with_values([values.get(block, 0.0) for block in layout.blocks])

    def for_network(self, family: str, touched: Mapping[str, int]) -> BlockValues:
        """Return the sliders in the layout that a network needs: the short one if that holds every block that it changes."""
        return replace(self, layout=layout_for(family, touched), touched=touched)


def rows(layout: Layout) -> list[tuple[str, str]]:
    """Return (encoder block, decoder block) of every level from the top down, empty where the layout lacks one; none for transformers."""
    found = [(f"IN{i:02}", f"OUT{layout.depth - 1 - i:02}") for i in range(layout.depth)]
    kept = [tuple(block if block in layout.blocks else "" for block in pair) for pair in found]
    return [(encoder, decoder) for encoder, decoder in kept if encoder or decoder]


def with_text(sliders: BlockValues, text: str) -> BlockValues:
    """Return sliders at the values of a text, in the layout that has so many. Raises PromptError for a text that no layout has."""
    layout, values = read_values(text, sliders.layout)
    return replace(sliders, layout=layout).with_values(values)


def read_values(text: str, shown: Layout) -> tuple[Layout, list[float]]:
    """Read typed values and say which layout they are of: the one shown, or the list of a tag that has so many. Raises PromptError."""
    pieces = text.strip().replace(";", ",").replace("\n", ",").split(",")
    needed = len(shown.blocks)
    layout = shown if len(pieces) == needed else LISTED.get(len(pieces))
    if layout is None:
        raise PromptError(f"{counted(len(pieces), 'value')} given; this layout needs {needed}.")
    return layout, [parse_number(piece, "a block weight") for piece in pieces]


def weights_of(sliders: BlockValues) -> Weights:
    """Return what the sliders say, as a tag takes it; None where that is no more than strength 1 everywhere."""
    whole = sliders.layout.is_whole if sliders.touched is None else not sliders.left_out
    if set(sliders.shown) == {1.0} and whole:
        return None
    if sliders.layout.listed:
        return BlockWeights(tuple(Cell("number", value) for value in sliders.shown))
    by_value: dict[float, list[str]] = {}
    for block, value in zip(sliders.blocks, sliders.shown):
        if sliders.is_touched(block) and value != 1:
            by_value.setdefault(value, []).append(block)
    return tuple(ElementRule(" ".join(_ranges(found)), "", value) for value, found in by_value.items()) or None


def _ranges(blocks: Sequence[str]) -> list[str]:
    """Write neighbouring blocks of one list as A-B; the others stay alone, since ranges through them may mean another model's blocks."""
    found: list[list[str]] = []
    for block in blocks:
        last = found[-1][-1] if found else ""
        kind, number = block[:-2], block[-2:]
        if number.isdigit() and last[:-2] == kind and last[-2:].isdigit() and int(number) == int(last[-2:]) + 1:
            found[-1].append(block)
        else:
            found.append([block])
    return [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found]


def fitting_presets(presets: Presets, layout: Layout) -> dict[str, BlockWeights]:
    """Return the presets for a layout's models by name; those that cannot be read are left out, a tag with such a name is told about."""
    found: dict[str, BlockWeights] = {}
    counts = FAMILIES[layout.family].blocks.counts if layout.listed else ()
    for name in presets.weight_names:
        try:
            weights = presets.weights(name)
        except LycorisError:
            continue
        if len(weights.cells) in counts:
            found[name] = weights
    return found


def name_of(sliders: BlockValues, presets: Presets) -> str | None:
    """Return the shortest name of the presets that mean just these values: a block that a list lacks is at 0, as in a tag."""
    shown = _on(dict(zip(sliders.blocks, sliders.shown)))
    means = {name: fixed(weights) for name, weights in fitting_presets(presets, sliders.layout).items()}
    return min((name for name, values in means.items() if values is not None and _on(values) == shown), key=len, default=None)


def _on(values: Mapping[str, float]) -> dict[str, float]:
    return {block: value for block, value in values.items() if value}


def fixed(weights: BlockWeights) -> Mapping[str, float] | None:
    """Return the value of each block that a preset lists; None for random ones, which no slider can show."""
    return None if weights.is_random else weights.ratios(0)


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
