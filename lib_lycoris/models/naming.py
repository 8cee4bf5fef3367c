"""Paths inside one component, the canonical spelling and that of diffusers, both ways from the rows of a family's declaration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from .parameters import LayerInfo, split_part
from .rows import Row

Live = dict[str, list[tuple[str, str | None, str | None]]]  # path -> (canonical path, part of it, part of the live module)
T = TypeVar("T")
_NUMBER = re.compile(r"\.(\d+)(?=\.|$)")


class Naming(Protocol):
    """The names of one component's layers in diffusers and transformers, both ways."""

    def knows(self, path: str) -> bool:
        """Tell whether a path can be one of this component's, where no prefix says so."""

    def to_other(self, path: str, shape: tuple[int, ...]) -> list[tuple[str, str | None]]:
        """Give the other names of a canonical path, each with the part of the weight that it names."""

    def spellings(self, path: str, shape: tuple[int, ...]) -> Iterator[tuple[str, str | None]]:
        """Yield all names that files have for a canonical path, the commonest first, each with the part of the weight that it names."""

    def read_live(self, infos: Mapping[str, LayerInfo]) -> dict[str, list[tuple[str, str | None, str | None]]]:
        """Give (canonical path, part of it, part of the live module) of a live component's modules; the unknown ones are left out."""


class TableNames:
    """The names of a component whose blocks are numbered alike in both spellings."""

    def __init__(self, rows: Iterable[Row], also: Mapping[str, str] | None = None) -> None:
        """Take the rows, and further names of some layers: `name: canonical path` or `name: canonical path[part]`."""
        self._own: dict[str, list[Row]] = {}
        self._other: dict[str, list[tuple[Row, str | None]]] = {}
        self._heads: set[str] = set()
        self._also: dict[str, list[tuple[str, str | None]]] = {}
        self._further: dict[str, tuple[str, str | None]] = {}
        for name, target in (also or {}).items():
            path, part = split_part(target)
            self._also.setdefault(path, []).append((name, part))
            self._further[name] = path, part
        for row in rows:
            self._own.setdefault(row.path, []).append(row)
            self._heads |= {name.partition(".")[0] for name in (row.path, *(name for name, _ in row.names))}
            for name, part in row.names:
                self._other.setdefault(name, []).append((row, part))

    def knows(self, path: str) -> bool:
        """Tell whether a path begins as one of these layers does, in either spelling."""
        return path.partition(".")[0] in self._heads

    def to_other(self, path: str, shape: tuple[int, ...]) -> list[tuple[str, str | None]]:
        """Give the other spellings of a canonical path, each with the part of the weight that it names."""
        found = self._look_up(self._own, path)
        if found is None:
            return []
        rows, number = found
        row = min(rows, key=lambda row: _unlike(row.shape, shape))
        return [(name.replace("#", number), part) for name, part in row.names]

    def spellings(self, path: str, shape: tuple[int, ...]) -> Iterator[tuple[str, str | None]]:
        """Yield the other spelling, the canonical one, its parts numbered as OneTrainer does, and what the family's file names."""
        found = self.to_other(path, shape)
        yield from found
        yield path, None
        if len(found) > 1:
            yield from ((f"{path}.{number}", part) for number, (_, part) in enumerate(found))
        rows = self._look_up(self._own, path)
        for name, part in self._also.get(rows[0][0].path, ()) if rows else ():
            yield name.replace("#", rows[1] if rows else "#"), part

    def to_canonical(self, path: str, shape: tuple[int, ...]) -> tuple[str, str | None] | None:
        """Give the canonical path and the part of it that another path names, or None."""
        found = self._look_up(self._other, path)
        if found is None:
            return None
        rows, number = found
        row, part = min(rows, key=lambda item: 0.0 if item[1] not in (None, "swap") else _unlike(item[0].shape, shape))
        return row.path.replace("#", number), part

    def read_live(self, infos: Mapping[str, LayerInfo]) -> Live:
        """Give the canonical places of a live component's modules, which are all in one spelling."""
        own = sum(self._look_up(self._own, path) is not None for path in infos)
        other = {path: found for path, info in infos.items() if (found := self.to_canonical(path, info.shape))}
        if own >= len(other):
            return {path: [(*(self._from_further(path) or (path, None)), None)] for path in infos}
        return {path: [(canonical, part, None)] for path, (canonical, part) in other.items()}

    def _from_further(self, path: str) -> tuple[str, str | None] | None:
        """Give the canonical path, and the part of it, that one of the family's further names means in a model of original names."""
        found = self._look_up(self._further, path) if self._look_up(self._own, path) is None else None
        return (found[0][0].replace("#", found[1]), found[0][1]) if found else None

    @staticmethod
    def _look_up(table: Mapping[str, T], path: str) -> tuple[T, str] | None:
        found = table.get(path)
        if found is not None:
            return found, "#"
        match = _NUMBER.search(path)
        found = table.get(f"{path[: match.start()]}.#{path[match.end() :]}") if match else None
        return None if found is None or match is None else (found, match[1])


def _unlike(declared: tuple[int, ...], shape: tuple[int, ...]) -> float:
    """Tell how far two shapes are from being the same layer's in models of different width."""
    if len(shape) < 2 or len(declared) < 2:
        return 0.0
    return abs(declared[0] / declared[1] - shape[0] / shape[1])
