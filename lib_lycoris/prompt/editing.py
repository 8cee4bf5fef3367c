"""The webui's prompt editing, `[a:b:when]`, `[a::when]`, `[b:when]` and `[a|b]`: the text of a prompt at each sampling step.

The grammar is the webui's: brackets that make no such group are plain text, and a `|` outside of one makes the whole prompt plain.
Read in one pass; a group that turns out to be none is put back into its surroundings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field
from typing import Union

from ..records import dataclass

DEEPEST = 100  # brackets inside each other; those around more are plain text
_TOKEN = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+")
_WHEN = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*", re.ASCII)
_CLOSES = {"]": "[", ")": "("}


@dataclass(frozen=True)
class Switch:
    """`[before:after:when]`."""

    before: tuple[Node, ...]
    after: tuple[Node, ...]
    when: str

    def last(self, steps: int, earlier: int) -> int:
        """Return the last step, from 1, of what stands before; with steps of an `earlier` pass the hires pass is meant.

        With a point `when` is a fraction of the steps: of the first pass up to 1, of the hires pass from 1 to 2.
        """
        value = float(self.when)
        value = (value - bool(earlier)) * steps if "." in self.when else value - earlier
        return int(min(steps, max(value, 0)))


@dataclass(frozen=True)
class Alternation:
    """`[a|b|...]`: one after the other, a step each."""

    choices: tuple[tuple[Node, ...], ...]


Node = Union[str, Switch, Alternation]


@dataclass
class _Group:
    """A bracket that is open: its parts, split at `:` and `|`, and whether something in it is allowed at the top level only."""

    opened: str
    parts: list[list[Node]] = field(default_factory=lambda: [[]])
    signs: list[str] = field(default_factory=list)
    stray: bool = False

    def flat(self) -> list[Node]:
        """Return the content with its signs as plain text."""
        found: list[Node] = list(self.parts[0])
        for sign, part in zip(self.signs, self.parts[1:]):
            found += [sign, *part]
        return found


def read_editing(text: str) -> tuple[Node, ...]:
    """Return a prompt's plain pieces and groups."""
    stack = [_Group("")]
    end = 0
    for match in _TOKEN.finditer(text):
        if match.start() != end:  # a backslash before nothing
            return (text,)
        token, end = match.group(), match.end()
        if token in ("[", "("):
            if len(stack) > DEEPEST:
                _put_all_back(stack)
            stack.append(_Group(token))
        elif token in _CLOSES:
            _close(stack, token)
        elif token in (":", "|"):
            stack[-1].signs.append(token)
            stack[-1].parts.append([])
        else:
            stack[-1].parts[-1].append(token)
    _put_all_back(stack)
    plain = end < len(text) or "|" in stack[0].signs  # a backslash at the end, or a | that is in no group
    return (text,) if plain else tuple(stack[0].flat())


def text_at(nodes: Sequence[Node], step: int, steps: int, earlier: int = 0) -> str:
    """Return the text at a step (from 1) of so many; `earlier` are the steps of a first pass before this one."""
    found = []
    for node in nodes:
        if isinstance(node, str):
            found.append(node)
            continue
        if isinstance(node, Switch):
            chosen = node.before if step <= node.last(steps, earlier) else node.after
        else:
            chosen = node.choices[(step - 1) % len(node.choices)]
        found.append(text_at(chosen, step, steps, earlier))
    return "".join(found)


def _close(stack: list[_Group], token: str) -> None:
    """End the group that is open, or take the bracket as plain text, and then all that are open around it too."""
    group = stack[-1]
    if group.opened != _CLOSES[token]:
        _put_all_back(stack)
        stack[0].parts[-1].append(token)
        return
    made = None if group.stray else _made(group)
    if made is None:
        _put_back(stack, token)
    else:
        stack.pop()
        stack[-1].parts[-1].extend(made)


def _made(group: _Group) -> list[Node] | None:
    """Return what a closed group is, None where it is nothing that the grammar knows."""
    if group.opened == "(":
        emphasis = group.signs in ([], [":"])
        return ["(", *group.flat(), ")"] if emphasis else None
    if not group.signs:
        return ["[", *group.flat(), "]"]
    if set(group.signs) == {"|"}:
        return [Alternation(tuple(tuple(part) for part in group.parts))]
    last = group.parts[-1]
    when = _WHEN.fullmatch(last[0]) if len(last) == 1 and isinstance(last[0], str) else None
    if when is None or group.signs not in ([":"], [":", ":"]):
        return None
    before = group.parts[0] if len(group.parts) == 3 else []
    return [Switch(tuple(before), tuple(group.parts[-2]), when[1])]


def _put_all_back(stack: list[_Group]) -> None:
    while len(stack) > 1:
        _put_back(stack, "")


def _put_back(stack: list[_Group], closing: str) -> None:
    """Make the innermost group plain text of the one around it, which then is no group either."""
    group = stack.pop()
    around = stack[-1]
    around.stray = True
    around.parts[-1] += [group.opened, *group.parts[0]]
    around.signs += group.signs
    around.parts += group.parts[1:]
    if closing:
        around.parts[-1].append(closing)
