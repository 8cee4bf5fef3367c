"""Which base models a network file fits: how much of it a family's layers explain, by name and shape; metadata decides among those."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from functools import cache

from ..records import dataclass
from .families import FAMILIES
from .index import IndexEntry, Joined, Key, Size, meanings
from .stored import Shapes, layer_size

TOLERATED = 0.1  # share of a file's modules that no family knows, in a file that is nevertheless known
_PEFT_BASE = re.compile(r'base_model_name_or_path"\s*:\s*"([^"]+)"')
_WHOLE = 0.9  # share of a family's layers that a file which trained all of them has


@dataclass(frozen=True)
class Fit:
    """How a file's modules fit one variant of a family."""

    family: str
    variant: str
    hits: int  # modules that are layers of it
    mismatches: int  # that have the names of its layers and other sizes
    own: int  # its layers of the kinds that were hit

    @property
    def whole(self) -> bool:
        """Whether the file has all layers of these kinds."""
        return self.hits >= _WHOLE * self.own


@dataclass(frozen=True)
class Recognition:
    """What a file is for."""

    family: str | None  # the likeliest
    candidates: tuple[str, ...]  # all whose layers' names and sizes the file fits, the likeliest first
    reason: str
    variants: Mapping[str, str] = field(default_factory=dict)  # candidate -> the variant that it fits best
    alike: tuple[str, ...] = ()  # families whose layers have these names in other sizes, where no size fits
    named: tuple[str, ...] = ()  # what the metadata says


class _Tally:
    """Counts of one variant of a family, or of its text encoders."""

    def __init__(self) -> None:
        self.hits = self.mismatches = 0
        self.rows: dict[tuple[int, str | None], int] = {}  # kinds of layers, and how many of each the model has

    def add(self, found: Iterable[IndexEntry | Joined], size: Size) -> None:
        """Count one module that can be these layers."""
        fitting = next((entry for entry in found if entry.fits(size)), None)
        if fitting is None:
            self.mismatches += 1
        else:
            self.hits += 1
            self.rows[id(fitting.row), fitting.part] = fitting.row.layers()


def recognise(modules: Mapping[str, Shapes], metadata: Mapping[str, str] | None = None) -> Recognition:
    """Tell what base models a file fits from `module -> suffix -> shape` and its metadata."""
    fits = _fits(modules)
    total = len(modules)
    spare = max(TOLERATED * total, 1 if total > 1 else 0)
    most = max((fit.hits for fit in fits), default=0)
    named = named_families(metadata or {})
    if most and total - most <= spare:
        return _choice([fit for fit in fits if fit.hits == most], named)
    by_name = max((fit.hits + fit.mismatches for fit in fits), default=0)
    alike = tuple(
        dict.fromkeys(fit.family for fit in fits if by_name and fit.hits + fit.mismatches == by_name and total - by_name <= spare)
    )
    if named:
        return Recognition(
            None, (), f"its metadata names {FAMILIES[named[0]].label}, but its layers are not that model's", {}, alike, named
        )
    if alike:
        labels = _listed(alike)
        return Recognition(None, (), f"its layers have the names of {labels}, but other sizes", {}, alike)
    likest = dict.fromkeys(fit.family for fit in fits if most and fit.hits == most)
    known = f"{most} of its {total} layers would fit {_listed(likest)}{', each' if len(likest) > 1 else ''}" if likest else ""
    return Recognition(None, (), f"its layers are those of no base model known here{'; ' + known if known else ''}")


def named_families(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Give the families that a file's metadata names: those with the longest of the spellings that one of its values begins with."""
    for value in _names(metadata):
        spelling = max((start for start in _spellings() if value.startswith(start)), key=len, default=None)
        if spelling is not None:
            return _spellings()[spelling]
    return ("sd2",) if str(metadata.get("ss_v2")) == "True" else ()


def _names(metadata: Mapping[str, str]) -> Iterator[str]:
    """Yield what metadata says the base model is, in small letters and digits."""
    for key in ("modelspec.architecture", "ss_base_model_version", "base_model", "ss_base_model", "ss_sd_model_name"):
        yield _plain(
            str(metadata.get(key, "")).replace("\\", "/").rpartition("/")[2] if key.endswith("name") else str(metadata.get(key, ""))
        )
    config = metadata.get("lora_adapter_metadata", "")
    if match := _PEFT_BASE.search(str(config)):
        yield _plain(match[1].rpartition("/")[2])


def _plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum())


@cache
def _spellings() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for family in FAMILIES.values():
        for spelling in family.spellings:
            found.setdefault(spelling, []).append(family.id)
    return {spelling: tuple(families) for spelling, families in found.items()}


def variant_of(modules: Mapping[str, Shapes], family: str) -> str:
    """Give the variant of a family that most of a file's modules fit; the default one where none does."""
    fits = [fit for fit in _fits(modules) if fit.family == family]
    return max(fits, key=lambda fit: fit.hits).variant if fits else next(iter(FAMILIES[family].variants))


def detect_family(modules: Mapping[str, Shapes], metadata: Mapping[str, str] | None = None) -> str | None:
    """Tell the likeliest family of a file or a model of any width; None when names, shapes and metadata do not tell it."""
    found = recognise(modules, metadata)
    if found.family is not None:
        return found.family
    alike = [family for family in found.alike if family in found.named] or found.alike
    return alike[0] if len(alike) == 1 else None


def _choice(fits: list[Fit], named: tuple[str, ...]) -> Recognition:
    """Order the families that fit: those of whose layers the file has all stand first, then the commoner ones."""
    order = {family: number for number, family in enumerate(FAMILIES)}
    fits = sorted(fits, key=lambda fit: (not fit.whole, order[fit.family], -fit.hits / max(fit.own, 1)))
    first = min((order[fit.family] for fit in fits if fit.hits >= fit.own), default=len(order))
    variants: dict[str, str] = {}
    for fit in fits:
        if fit.hits >= fit.own or order[fit.family] < first:  # all layers of a commoner family, or some of a rarer one: not the rarer one's
            variants.setdefault(fit.family, fit.variant)
    found = tuple(variants)
    if chosen := tuple(family for family in found if family in named):
        others = tuple(family for family in found if family not in named)
        reason = (
            f"by its metadata; its layers would fit {_listed(others)} as well"
            if others
            else "by the names and shapes of its layers and by its metadata"
        )
        return Recognition(chosen[0], chosen, reason, variants, named=named)
    reason = "by the names and shapes of its layers"
    if len(found) > 1:
        reason += f"; they fit {_listed(found)} alike, and {FAMILIES[found[0]].label} is the likeliest"
    if named:
        reason += f" (its metadata names {FAMILIES[named[0]].label}, whose layers it does not have)"
    return Recognition(found[0], found, reason, variants, named=named)


def _listed(families: Iterable[str]) -> str:
    labels = [FAMILIES[family].label for family in families]
    return f"{', '.join(labels[:-1])} and {labels[-1]}" if len(labels) > 1 else "".join(labels)


def _fits(modules: Mapping[str, Shapes]) -> list[Fit]:
    tallies: dict[Key, _Tally] = {}
    for name, shapes in modules.items():
        size = layer_size(shapes)
        for key, found in meanings(name).items():
            tallies.setdefault(key, _Tally()).add(found, size)
    return [_fit(family, variant, tallies) for family, variant in _tried(tallies)]


def _tried(tallies: Iterable[Key]) -> list[tuple[str, str]]:
    """List the variants that have any layer of the file; the default one where only text encoders do."""
    found = [(family, variant) for family, variant in tallies if variant is not None]
    known = {family for family, _ in found}
    return found + [(family, next(iter(FAMILIES[family].variants))) for family, variant in tallies if family not in known]


def _fit(family: str, variant: str, tallies: Mapping[Key, _Tally]) -> Fit:
    found = [tallies[key] for key in ((family, variant), (family, None)) if key in tallies]
    own = sum(sum(tally.rows.values()) for tally in found)
    return Fit(family, variant, sum(tally.hits for tally in found), sum(tally.mismatches for tally in found), own)
