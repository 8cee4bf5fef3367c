"""Counts of caption tags in the metadata of a network, as trainers write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..plain_json import parse_json


def top_tags(metadata: Mapping[str, Any], count: int) -> list[tuple[str, int]]:
    """Return the most frequent caption tags over all folders; metadata of another form has none."""
    folders = metadata.get("ss_tag_frequency")
    if isinstance(folders, str):
        try:
            folders = parse_json(folders)
        except ValueError:
            return []
    counts: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, number in tags.items() if isinstance(tags, dict) else ():
            if isinstance(number, int):
                counts[tag.strip()] += number
    return counts.most_common(count)
