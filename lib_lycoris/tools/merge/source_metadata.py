"""What a merged network says of the networks that it is made of: one's metadata whole, of several what is true of all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ...networks.tag_counts import FREQUENCIES, joined_counts
from ..files.metadata import KEY, OWN_HASHES, triggers

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
    words, tags = triggers(sources), joined_counts(sources)
    return {
        **kept,
        **found,
        **({TRIGGERS: ", ".join(words)} if words else {}),
        **({FREQUENCIES: json.dumps(tags, ensure_ascii=False)} if tags else {}),
    }


def disagreed(sources: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what people wrote into the networks that the result does not say, since they differ in it."""
    return [key for key in SAID if len({metadata.get(key, "") for metadata in sources}) > 1]
