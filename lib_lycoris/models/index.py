"""All families' layers by the flattened names that files have for them, to find whose layers a file's modules are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, cached_property, lru_cache
from math import prod

from ..records import dataclass
from .families import FAMILIES
from .family import Family
from .parameters import rows
from .rows import Row
from .spellings import flat, fused_parts, modern, split_prefix, unwrap

ANY = ""  # component of a name that may stand behind any prefix
Size = tuple[int | None, int | None]  # rows, columns; None: not known
Key = tuple[str, str | None]  # family, variant; no variant for a text encoder's layer, which all variants have

_NUMBER = re.compile(r"(?:(?<=_)|^)\d{1,6}(?=_|$)")


@dataclass(frozen=True, eq=False)
class IndexEntry:
    """One name of a layer, or of the same layer of several blocks, in one variant of a family."""

    key: Key
    component: str
    row: Row
    part: str | None

    @cached_property
    def size(self) -> tuple[int, int | None]:
        """Rows and columns of the weight, or of the part that is named."""
        shape = self.row.shape
        if self.part == "T":
            return shape[1], shape[0]
        count = sum(piece.stop - piece.start for piece in rows(self.part, shape)) if self.part else shape[0]
        return count, shape[1] if len(shape) > 1 else None

    def fits(self, size: Size) -> bool:
        """Tell whether a layer of this size, as far as it is known, can be this one."""
        return size[0] in (None, self.size[0]) and self.reads(size[1])

    def reads(self, columns: int | None) -> bool:
        """Tell whether this layer can have so many inputs."""
        own = self.size[1]
        if columns is None or own is None or columns == own:
            return True
        return columns == own * prod(self.row.shape[2:]) or self.row.path in FAMILIES[self.key[0]].wider


@dataclass(frozen=True, eq=False)
class Joined:
    """Several layers that one adapter is for, their rows one after the other."""

    parts: tuple[IndexEntry, ...]

    @property
    def row(self) -> Row:
        """The first layer."""
        return self.parts[0].row

    @property
    def part(self) -> str:
        """What of the first layer it is, and what it is with."""
        return "+".join(f"{part.row.path}[{part.part}]" for part in self.parts)

    def fits(self, size: Size) -> bool:
        """Tell whether an adapter of this size can be for these layers."""
        return size[0] in (None, sum(part.size[0] for part in self.parts)) and all(part.reads(size[1]) for part in self.parts)


@lru_cache(maxsize=1 << 15)
def meanings(name: str) -> dict[Key, list[IndexEntry | Joined]]:
    """Return what layers a module of a file can be, by family and variant."""
    whole = flat(unwrap(name))
    slot, path = split_prefix(name)
    found: dict[Key, list[IndexEntry | Joined]] = {}
    for entry in {id(entry): entry for entry in (*_look_up(f":{whole}"), *_behind(slot, path))}.values():
        found.setdefault(entry.key, []).append(entry)
    for names in () if found else fused_parts(path):
        for key, parts in _together([_behind(slot, part) for part in names]).items():
            found.setdefault(key, []).append(Joined(parts))
    return found


def _behind(slot: str | None, path: str) -> list[IndexEntry]:
    """Return the layers of a component that a path means; an old spelling only if nobody knows it as it stands."""
    found = [entry for entry in _look_up(path) if _is_in(entry, slot)]
    if not found and (newer := modern(path)) != path:
        found = [entry for entry in _look_up(newer) if _is_in(entry, slot)]
    return found


def _is_in(entry: IndexEntry, slot: str | None) -> bool:
    if slot is None or entry.component == ANY:
        return True
    return entry.component == (slot if slot == "unet" else FAMILIES[entry.key[0]].slots.get(slot))


def _together(parts: list[list[IndexEntry]]) -> dict[Key, tuple[IndexEntry, ...]]:
    """Return the variants of families that have all parts."""
    tables = [{entry.key: entry for entry in part} for part in parts]
    return {key: tuple(table[key] for table in tables) for key in tables[0] if all(key in table for table in tables)}


def _look_up(path: str) -> list[IndexEntry]:
    table = entries()
    found = table.get(path, [])
    if match := _NUMBER.search(path):
        number = int(match[0])
        numbered = table.get(f"{path[: match.start()]}#{path[match.end() :]}", [])
        found = found + [entry for entry in numbered if number in entry.row.numbers]
    return found


@cache
def entries() -> dict[str, list[IndexEntry]]:
    """Return all names: flattened path inside a component, or ":" and the whole canonical name, with `#` for a block's number."""
    found: dict[str, list[IndexEntry]] = {}
    for family in FAMILIES.values():
        for name, entry in _entries_of(family):
            found.setdefault(name, []).append(entry)
    return found


def _entries_of(family: Family) -> Iterator[tuple[str, IndexEntry]]:
    for component in family.components:
        naming = family.naming(component)
        for variant in family.variants if component.key == "unet" else (None,):
            for row in family.rows(component, variant):
                names = {flat(name): part for name, part in reversed(list(naming.spellings(row.path, row.shape)))}
                for name, part in names.items():
                    yield name, IndexEntry((family.id, variant), component.key, row, part)
                    if part is None or row.kind == "MultiheadAttention":
                        yield f":{flat(component.prefix)}{flat(name)}", IndexEntry((family.id, variant), ANY, row, part)
                if component.inside:
                    yield flat(component.inside + row.path), IndexEntry((family.id, variant), ANY, row, None)
