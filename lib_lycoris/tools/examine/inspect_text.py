"""An inspection as a report for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ... import models
from ...wording import counted
from ..files.networks.left_out import by_reason
from ..units import megabytes
from .inspect import Inspection

COMPONENTS: dict[str | None, str] = {
    "unet": "UNet", "te1": "text encoder", "te2": "text encoder 2", "te3": "text encoder 3", None: "fits no layer",
}  # fmt: skip
LISTED = 12  # keys a list shows before it says how many more there are


def as_text(found: Inspection) -> str:
    """Return the report, aligned, with what is wrong at the top."""
    sections = [
        ("", [("file", _headline(found)), *_problems(found)]),
        ("Network", _network(found)),
        ("Training", list(found.training.items()) + _tags(found)),
        ("Hashes", [(name, value) for name, value in found.hashes.items()]),
        ("Not used", _keys(by_reason(found.unmatched))),
        ("NaN or infinity", _keys(found.not_finite)),
        ("Dead modules", _keys(found.dead)),
    ]
    return "\n\n".join(_section(title, rows) for title, rows in sections if rows)


def _section(title: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in rows)
    lines = [f"{label:<{width}}  {' '.join(value.split())}".rstrip() if label else f"  {value}" for label, value in rows]
    return "\n".join([title, "-" * len(title), *lines] if title else lines)


def _headline(found: Inspection) -> str:
    return f"{found.name}  ({megabytes(found.bytes)}, {counted(found.keys, 'tensor')})" + ("" if found.usable else " - it cannot be used")


def _problems(found: Inspection) -> list[tuple[str, str]]:
    return [("problem" if number == 0 else "and", text) for number, text in enumerate(found.problems)]


def _network(found: Inspection) -> list[tuple[str, str]]:
    rows = [("base model", f"{base_model_of(found)} ({reason_of(found)})"), ("compared with", found.compared_with)]
    rows.append(("keys", f"{found.matched_keys} of {found.keys} used"))
    rows += [(name, text) for name, values in _columns(found) if (text := tally(values))]
    for component, title in COMPONENTS.items():
        names = [module.algorithm for module in found.modules if module.component == component]
        if names:
            counts = {name: names.count(name) for name in dict.fromkeys(names)}
            rows.append((title, tally(counts)))
    for word, parts in found.embeddings.items():
        rows.append(("embedding", f'"{word}" ' + ", ".join(f"{part} {'x'.join(map(str, shape))}" for part, shape in parts.items())))
    return rows


def base_model_of(found: Inspection) -> str:
    """Return the base model in a few words: as the file tells it, else the model at hand that the file fits."""
    if found.family:
        return models.FAMILIES[found.family].label
    return f"fits {found.fits}" if found.fits else "unknown"


def reason_of(found: Inspection) -> str:
    """Return what the base model was told by."""
    return f"by the names and shapes of its layers; by the file alone unknown: {found.family_reason}" if found.fits else found.family_reason


def _columns(found: Inspection) -> tuple[tuple[str, Mapping[str, int]], ...]:
    return ("algorithms", found.algorithms), ("ranks", found.ranks), ("alphas", found.alphas), ("tensor types", found.dtypes)


def tally(counts: Mapping[str, int]) -> str:
    """Return counts in words: `16 (264x)`."""
    return ", ".join(f"{value} ({count}x)" for value, count in counts.items())


def _tags(found: Inspection) -> list[tuple[str, str]]:
    return [("top tags", ", ".join(f"{tag} {count}" for tag, count in found.tags))] if found.tags else []


def _keys(lines: Iterable[str]) -> list[tuple[str, str]]:
    every = list(lines)
    rows = [("", line) for line in every[:LISTED]]
    return rows + ([("", f"... and {len(every) - LISTED} more (all with --json)")] if len(every) > LISTED else [])
