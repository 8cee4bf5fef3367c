"""Counts of caption tags in the metadata of a network, as trainers write them: a table for each folder of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ..plain_json import parse_json

FREQUENCIES = "ss_tag_frequency"  # the metadata's entry


def tag_counts(metadata: Mapping[str, Any]) -> dict[str, Counter[str]]:
    """Return how often each tag was trained, by folder; what is of another form is left out."""
    folders = metadata.get(FREQUENCIES)
    if isinstance(folders, str):
        try:
            folders = parse_json(folders)
        except ValueError:
            return {}
    tables = folders.items() if isinstance(folders, dict) else ()
    return {folder: _counted(table) for folder, table in tables if isinstance(table, dict)}


def _counted(table: Mapping[str, Any]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for tag, count in table.items():
        if isinstance(count, int) and not isinstance(count, bool):
            counts[tag.strip()] += count
    return counts


def joined_counts(sources: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Return the counts of several networks added up, folder by folder."""
    found: dict[str, Counter[str]] = {}
    for metadata in sources:
        for folder, counts in tag_counts(metadata).items():
            found.setdefault(folder, Counter()).update(counts)
    return found


def top_tags(metadata: Mapping[str, Any], count: int) -> list[tuple[str, int]]:
    """Return the most frequent caption tags over all folders."""
    counts: Counter[str] = Counter()
    for folder in tag_counts(metadata).values():
        counts.update(folder)
    return counts.most_common(count)
