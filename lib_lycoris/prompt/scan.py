"""Where the tags of a prompt are, as the webui sees them, and what only looks like one. Every scan is linear in the prompt's length."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from .number import quoted
from .parse import parse_tag
from .tag import Tag, TagError

TOLD = 5  # pieces of one prompt that get a sentence
_HEAD = re.compile(r"<(\w+):")
_ALMOST = re.compile(r"<\s*(\w+)\s*:[^<>]*>?")


@dataclass(frozen=True)
class Place:
    """One `<kind:inside>` of a prompt, from `start` to `stop`."""

    start: int
    stop: int
    kind: str
    inside: str

    def read(self) -> Tag | TagError:
        """Return the tag, or the error that says why it is none."""
        try:
            return parse_tag(self.inside.split(":"), self.kind)
        except TagError as error:
            return error


def places(prompt: str) -> Iterator[Place]:
    """Yield what the webui takes for tags: `<(\\w+):([^>]+)>`, of whatever kind."""
    start = 0
    while (head := _HEAD.search(prompt, start)) is not None:
        close = prompt.find(">", head.end())
        if close < 0:
            return
        start = close + 1
        if close > head.end():
            yield Place(head.start(), start, head[1], prompt[head.end() : close])


def find_tags(prompt: str, names: Sequence[str] = ("lyco",)) -> tuple[str, list[Tag | TagError]]:
    """Return the prompt without the tags of these names, and each of them read, or the error that says why not."""
    found = [place for place in places(prompt) if place.kind in names]
    ends = [0, *(place.stop for place in found)]
    rest = [prompt[end : place.start] for end, place in zip(ends, found, strict=False)]
    return "".join([*rest, prompt[ends[-1] :]]), [place.read() for place in found]


def unread_tags(text: str, names: Sequence[str] = ("lyco",), known: Collection[str] = ()) -> list[str]:
    """Return a sentence for what was left in a prompt as plain words and was probably meant as a tag of these names.

    `known` are the kinds of tags that somebody else reads.
    """
    found = [match for match in _ALMOST.finditer(text) if match[1] not in known and not match[1].isdigit()]
    sentences = [f"{quoted(match.group())} was read as plain words: {_mistake(match.group(), match[1], names)}" for match in found[:TOLD]]
    if len(found) > TOLD:
        sentences.append(f"and {len(found) - TOLD} more pieces of the prompt look like tags and are none")
    return sentences


def _mistake(text: str, kind: str, names: Sequence[str]) -> str:
    rule = f"a tag is <{names[0]}:NAME:STRENGTH>"
    if kind not in names:
        near = kind.lower() if kind.lower() in names else next(iter(difflib.get_close_matches(kind.lower()[:20], names, 1)), None)
        return f"{rule}; write <{near}: in small letters" if near else f"{rule}, and nothing here reads <{kind[:20]}:"
    if not text.endswith(">"):
        return f"{rule}, and the closing > is missing"
    return f"{rule}, and the name is missing" if text.endswith(":>") else f"{rule}, without blanks before the first colon"
