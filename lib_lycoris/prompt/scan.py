"""Where the tags of a prompt are, as the webui sees them, and what only looks like one. Every scan is linear in the prompt's length."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence

from ..records import dataclass
from .number import quoted
from .parse import parse_tag
from .tag import Tag, TagError

TOLD = 5  # pieces of one prompt that get a sentence
_HEAD = re.compile(r"<(\w+):")
_ALMOST = re.compile(r"<\s*(\w+)\s*(:?)[^<>]*>?")


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


@dataclass(frozen=True)
class NearMiss:
    """A piece of a prompt that looks like a tag and was read as plain words."""

    sentence: str
    ours: bool  # the kind is ours, in whatever letters: nothing else can have been meant


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


def near_misses(text: str, names: Sequence[str] = ("lyco",), known: Collection[str] = ()) -> list[NearMiss]:
    """Return what was left in a prompt as plain words and was probably meant as a tag of these names.

    `known` are the kinds of tags that somebody else reads.
    """
    found = []
    for match in _ALMOST.finditer(text):
        ours = match[1].lower() in names
        if ours or (match[2] and match[1] not in known and not match[1].isdigit()):
            found.append((match, ours))
    misses = [NearMiss(_said(match, names), ours) for match, ours in found[:TOLD]]
    if len(found) > TOLD:
        more = f"and {len(found) - TOLD} more pieces of the prompt look like tags and are none"
        misses.append(NearMiss(more, any(ours for _, ours in found[TOLD:])))
    return misses


def _said(match: re.Match[str], names: Sequence[str]) -> str:
    return f"{quoted(match.group())} was read as plain words: a tag is <{names[0]}:NAME:STRENGTH>{_mistake(match, names)}"


def _mistake(match: re.Match[str], names: Sequence[str]) -> str:
    text, kind, colon = match.group(), match[1], match[2]
    if kind not in names:
        if kind.lower() in names:
            return f"; write <{kind.lower()}: in small letters"
        near = next(iter(difflib.get_close_matches(kind.lower()[:20], names, 1)), None)
        return f"; did you mean <{near}:?" if near else f", and nothing here reads <{kind[:20]}:"
    if not colon and text.strip("<> ") != kind:
        return f", and the colon behind {kind} is missing"
    if not text.endswith(">"):
        return ", and the closing > is missing"
    return ", and the name is missing" if text.strip("<>: ") == kind else ", without blanks before the first colon"
