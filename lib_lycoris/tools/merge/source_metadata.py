"""What a merged network says of the networks that it is made of: one's metadata whole, of several what is true of all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...plain_json import parse_json
from ..files.metadata import KEY, OWN_HASHES, triggers

FREQUENCIES = "ss_tag_frequency"
TITLE, TRIGGERS, SOURCES = "modelspec.title", "modelspec.trigger_phrase", "modelspec.merged_from"
JOINED = (FREQUENCIES, TITLE, TRIGGERS, SOURCES, KEY, *OWN_HASHES)
SAID = ("modelspec.author", "modelspec.license", "modelspec.description", "modelspec.usage_hint", "modelspec.thumbnail")


def joined(sources: Sequence[Mapping[str, str]], names: Sequence[str], title: str) -> dict[str, str]:
    """Return the metadata of a merge of networks.

    Args:
        sources: the metadata of each different network.
        names: of all files that were given.
        title: of the result; that of a single network stays.
    """
    first, *others = sources
    found = {SOURCES: ", ".join(names), TITLE: title}
    if not others:
        return {**found, **{key: value for key, value in first.items() if key != KEY}}
    kept = {key: value for key, value in first.items() if key not in JOINED and all(other.get(key) == value for other in others)}
    words, tags = triggers(sources), frequencies(sources)
    return {
        **kept,
        **found,
        **({TRIGGERS: ", ".join(words)} if words else {}),
        **({FREQUENCIES: json.dumps(tags, ensure_ascii=False)} if tags else {}),
    }


def frequencies(sources: Sequence[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """Return how often each tag was trained, by folder of the images, over all networks; what cannot be read is left out."""
    found: dict[str, Counter[str]] = {}
    for metadata in sources:
        for folder, tags in _table(metadata.get(FREQUENCIES, "")).items():
            if isinstance(tags, dict):
                counts = {tag: count for tag, count in tags.items() if isinstance(count, int) and not isinstance(count, bool)}
                found.setdefault(folder, Counter()).update(counts)
    return {folder: dict(counts) for folder, counts in found.items()}


def disagreed(sources: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what people wrote into the networks that the result does not say, since they differ in it."""
    return [key for key in SAID if len({metadata.get(key, "") for metadata in sources}) > 1]


def _table(text: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
