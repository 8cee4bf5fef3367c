"""The layouts of sliders: the lists that a tag takes as values, and for every other family the blocks that it declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...errors import ToolError
from ...models import LAYOUTS, layout
from ...models.families import FAMILIES
from ...records import dataclass

_TITLES = {
    17: "SD 1/2: attention (17)", 26: "SD 1/2: full set (26)", 12: "SDXL: attention (12)", 20: "SDXL: full set (20)",
    61: "Flux: full set (61)",
}  # fmt: skip
_DEPTHS = {17: 12, 26: 12, 12: 9, 20: 9}  # values -> blocks of the UNet's encoder, as many as of its decoder


@dataclass(frozen=True)
class Layout:
    """The blocks that have sliders, in the order of their values."""

    label: str
    family: str  # the commonest that has these blocks
    blocks: tuple[str, ...]
    listed: bool = False  # a tag takes their values as a list; else they are written as element filters
    depth: int = 0  # blocks of a UNet's encoder, which skip connections join with its decoder's; 0: a transformer

    @property
    def is_whole(self) -> bool:
        """Whether these are all blocks of the family."""
        return self.blocks == layout(self.family)

    @property
    def kinds(self) -> Mapping[str, str]:
        """Beginning of a block's id -> what such a block is, by the name of its list in the model."""
        sections = FAMILIES[self.family].blocks.sections
        return {letter: section.replace("_", " ").replace(".", " ").replace("blocks", "block") for section, letter in sections.items()}


def _listed(count: int) -> Layout:
    family = next(family.id for family in FAMILIES.values() if count in family.blocks.counts)
    return Layout(_TITLES[count], family, LAYOUTS[count], listed=True, depth=_DEPTHS.get(count, 0))


def _declared() -> Iterator[Layout]:
    """Yield the layouts of the families whose values a tag does not take as a list: one for each number of blocks that a variant has."""
    for family in FAMILIES.values():
        if family.blocks.counts:
            continue
        found: dict[tuple[str, ...], str] = {}
        for variant in family.variants:
            found.setdefault(layout(family.id, variant), variant)
        for blocks, variant in found.items():
            title = f"{family.label} {variant}" if len(found) > 1 and variant else family.label
            yield Layout(f"{title}: all ({len(blocks)})", family.id, blocks)


LISTED: Mapping[int, Layout] = {count: _listed(count) for count in _TITLES}
SHOWN: Mapping[str, Layout] = {found.label: found for found in (*LISTED.values(), *_declared())}


def layout_for(family: str, touched: Mapping[str, int]) -> Layout:
    """Return the layout that fits a network of a family: the shortest that holds every block which it changes. Raises ToolError."""
    counts = FAMILIES[family].blocks.counts
    own = [LISTED[count] for count in counts] or [found for found in SHOWN.values() if found.family == family and not found.listed]
    if not own:
        raise ToolError(f"there are no sliders for the blocks of {FAMILIES[family].label}; choose a network of a base model that is known")
    fitting = [found for found in own if all(block in found.blocks for block in touched if block != "-")]
    return min(fitting, key=lambda found: len(found.blocks), default=own[0])
