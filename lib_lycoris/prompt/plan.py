"""A prompt with tags -> for each sampling step, what the text encoders read and which networks are on.

A tag between the brackets of prompt editing follows them as a word would: `[<lyco:a:1>:<lyco:b:1>:0.5]`, `[<lyco:a:1>::8]`,
`[<lyco:a>|<lyco:b>]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from ..records import dataclass
from .editing import Node, read_editing, text_at
from .scan import Place, places
from .tag import Tag, TagError, shown

_AND = re.compile(r"\bAND\b(?!_PERP|_SALT|_TOPK)")
_WEIGHT = re.compile(r"\s*([-+]?(?:\d+\.?|\d*\.\d+))\s*", re.ASCII)
_PRIVATE = range(0xF0000, 0xFFFFE)  # characters without a meaning; each stands for one tag while brackets are read


@dataclass(frozen=True)
class Part:
    """Words with their weight: a prompt is one part, or several with `AND` between them."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class PromptPlan:
    """What a prompt means at each step, from 0, of one pass.

    `tags` are in the prompt's order; those that prompt editing turns on and off say when in `during`.
    """

    parts: tuple[tuple[Part, ...], ...]  # for each step
    tags: tuple[Tag | TagError, ...] = ()

    def on(self, step: int) -> tuple[Tag, ...]:
        """Return the tags whose networks are on at a step."""
        return tuple(tag for tag in self.tags if isinstance(tag, Tag) and (tag.during is None or tag.during[step]))


def plan_prompt(prompt: str, names: Sequence[str], steps: int, earlier: int = 0) -> PromptPlan:
    """Read a prompt for a pass of so many steps; for the hires pass `earlier` are the steps of the first one."""
    marks = _marks(prompt)
    ours = {mark: place for mark, place in marks.items() if place.kind in names}
    left = {mark: "" if mark in ours else prompt[place.start : place.stop] for mark, place in marks.items()}
    split = [_weighted(piece, marks) for piece in _AND.split(_marked(prompt, marks))]
    read = [read_editing(text) for text, _ in split]

    @cache
    def understood(texts: tuple[str, ...]) -> tuple[tuple[Part, ...], frozenset[str]]:
        parts = tuple(Part("".join(left.get(char, char) for char in text).strip(), weight) for text, (_, weight) in zip(texts, split))
        return parts, frozenset(mark for text in texts for mark in text if mark in ours)

    each = [understood(tuple(text_during(nodes, step, steps, earlier) for nodes in read)) for step in range(steps)]
    tags = tuple(_during(place, tuple(mark in on for _, on in each)) for mark, place in ours.items())
    return PromptPlan(tuple(parts for parts, _ in each), tags)


def plan_negative(negative: str, steps: int, earlier: int = 0) -> tuple[str, ...]:
    """Return the words of a negative prompt at each step; `AND` is a word there, and tags have no meaning."""
    nodes = read_editing(negative)
    return tuple(text_during(nodes, step, steps, earlier).strip() for step in range(steps))


def text_during(nodes: Sequence[Node], step: int, steps: int, earlier: int = 0) -> str:
    """Return the text that is used at a step, from 0.

    The webui counts the steps of its schedules from 1 and those of the sampler from 0, and compares the two as they are: `[a:b:8]` has `a`
    at the first nine. What it shows with a prompt of old must stay what it was, so this is kept.
    """
    return text_at(nodes, max(step, 1), steps, earlier)


def _marks(prompt: str) -> dict[str, Place]:
    """Give each tag, of whatever kind, a character of its own that the prompt does not have."""
    used = set(prompt)
    free = (char for char in map(chr, _PRIVATE) if char not in used)
    return dict(zip(free, places(prompt)))


def _marked(prompt: str, marks: Mapping[str, Place]) -> str:
    """Return the prompt with each tag's character in its place."""
    pieces, end = [], 0
    for mark, place in marks.items():
        pieces += [prompt[end : place.start], mark]
        end = place.stop
    return "".join([*pieces, prompt[end:]])


def _weighted(piece: str, marks: Mapping[str, Place]) -> tuple[str, float]:
    """Split off the weight at the end of a part, `a cat :0.7`; tags behind it stay."""
    text, colon, end = piece.rpartition(":")
    weight = _WEIGHT.fullmatch("".join(char for char in end if char not in marks)) if colon else None
    if weight is None:
        return piece, 1.0
    return text + "".join(char for char in end if char in marks), float(weight[1])


def _during(place: Place, on: tuple[bool, ...]) -> Tag | TagError:
    """Read a tag, with the steps at which it is on; a note when it never is."""
    tag = place.read()
    if isinstance(tag, TagError) or all(on):
        return tag
    never = f"{shown(tag.text)}: the brackets around it turn it on at no step of {len(on)}"
    return replace(tag, during=on, notes=tag.notes if any(on) else (*tag.notes, never))
