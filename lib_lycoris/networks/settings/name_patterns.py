"""Does a module's name match a pattern out of a file? Read without executing it: a subset of regular expressions, in linear time.

PEFT's configs name modules by regular expressions. What trainers write is read: literal names, ``.``, ``\\d``, ``\\w``, ``[...]``,
groups with ``|``, ``*``, ``+``, ``?`` behind any of them, ``^`` and ``$`` around all. The states of a pattern are followed together, so
the time is bounded by its length times the name's; what goes beyond is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from ...errors import NetworkFormatError, readable

LONGEST_PATTERN = 500  # characters, of those that are no plain name
MOST_KNOWN = 10_000  # sets of states that are remembered
DEEPEST = 20  # groups in groups
LITERAL = re.compile(r"[A-Za-z0-9_.\-]*")  # the dot stands for any character there
CLASSES: dict[str, Callable[[str], bool]] = {"d": str.isdecimal, "w": lambda char: char.isalnum() or char == "_"}
Test = Callable[[str], bool]
State = tuple[Test | None, list[int]]  # what a character must be (None: no character is taken), and the states behind it


def ends_with(pattern: str, name: str) -> bool:
    """Tell whether PEFT finds a pattern at the end of a module's name, whole or behind a dot. Raises NetworkFormatError."""
    if LITERAL.fullmatch(pattern):
        tail = name[len(name) - len(pattern) :] if len(pattern) <= len(name) else ""
        whole = len(pattern) == len(name) or name[len(name) - len(pattern) - 1 : len(name) - len(pattern)] == "."
        return len(tail) == len(pattern) and whole and all(p in (c, ".") for p, c in zip(pattern, tail))
    starts = [0] if pattern.startswith("^") else [0, *(i + 1 for i, c in enumerate(name) if c == ".")]
    return _compiled(pattern).matches(name, starts)


def covers(pattern: str, name: str) -> bool:
    """Tell whether a pattern matches all of a name. Raises NetworkFormatError for one that is not read."""
    return _compiled(pattern).matches(name, [0])


def found_in(pattern: str, name: str, where: str) -> bool:
    """Tell whether a pattern fits somewhere in a name; where: the file that it stands in. Raises NetworkFormatError."""
    starts = [0] if pattern.startswith("^") else range(len(name) + 1)
    return _compiled(pattern, where).matches(name, starts, to_end=pattern.endswith("$"))


class _Automaton:
    """A pattern's states; 0 is the end."""

    def __init__(self, pattern: str, where: str) -> None:
        self.where = where
        self.pattern, self.place, self.depth = pattern.removeprefix("^").removesuffix("$"), 0, 0
        self.states: list[State] = [(None, [])]
        self._known: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        if len(pattern) > LONGEST_PATTERN:
            raise self._refused(f"more than {LONGEST_PATTERN} characters")
        self.first = self._alternatives(0)
        if self.place != len(self.pattern):
            raise self._refused("a closing bracket without its opening one")
        if len(self.states[self.first][1]) > 1 and self.pattern != pattern:
            raise self._refused("an anchor beside alternatives")

    def matches(self, name: str, starts: Iterable[int], to_end: bool = True) -> bool:
        """Tell whether the pattern covers a name from one of these places to its end, or to any place behind."""
        begin, current = set(starts), frozenset[int]()
        for place, char in enumerate(name):
            if place in begin:
                current |= {self.first}
            if not to_end and 0 in self._reachable(current):
                return True
            current = self._next(current, char)
        return 0 in self._reachable(current | {self.first} if len(name) in begin else current)

    def _next(self, states: frozenset[int], char: str) -> frozenset[int]:
        if (states, char) not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            reached = [self.states[state] for state in self._reachable(states)]
            self._known[states, char] = frozenset(after for test, behind in reached if test and test(char) for after in behind)
        return self._known[states, char]

    def _reachable(self, states: frozenset[int]) -> set[int]:
        found, waiting = set(states), list(states)
        while waiting:
            test, behind = self.states[waiting.pop()]
            if test is None:
                waiting.extend(new for new in behind if new not in found)
                found.update(behind)
        return found

    def _state(self, test: Test | None, behind: list[int]) -> int:
        self.states.append((test, behind))
        return len(self.states) - 1

    def _peek(self) -> str:
        return self.pattern[self.place] if self.place < len(self.pattern) else ""

    def _take(self) -> str:
        char = self._peek()
        self.place += 1
        return char

    def _alternatives(self, behind: int) -> int:
        """Build one alternative after the other; returns the state before all of them."""
        branches = [self._sequence(behind)]
        while self._peek() == "|":
            self._take()
            branches.append(self._sequence(behind))
        return self._state(None, branches)

    def _sequence(self, behind: int) -> int:
        """Build what stands side by side: the parts are joined by states that take no character."""
        first = last = self._state(None, [])
        while self._peek() not in ("", "|", ")"):
            begin, end = self._repeated()
            self.states[last][1].append(begin)
            last = end
        self.states[last][1].append(behind)
        return first

    def _repeated(self) -> tuple[int, int]:
        end = self._state(None, [])
        begin = self._atom(end)
        sign = self._peek()
        if sign not in ("*", "+", "?"):
            return begin, end
        self._take()
        if self._peek() == "?":
            self._take()  # which of several ways a name is matched makes no difference here
        if sign != "?":
            self.states[end][1].append(begin)
        after = self._state(None, [])
        self.states[end][1].append(after)
        return (begin if sign == "+" else self._state(None, [begin, after])), after

    def _atom(self, behind: int) -> int:
        char = self._take()
        if char == "(":
            return self._group(behind)
        if char == "[":
            return self._state(self._set(), [behind])
        if char == "\\":
            return self._state(self._escaped(), [behind])
        if char in "*+?{}^$]":
            raise self._refused(f"{char} where no repetition or anchor is read")
        return self._state((lambda c: True) if char == "." else (lambda c: c == char), [behind])

    def _group(self, behind: int) -> int:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._refused("groups too deep in each other")
        if self.pattern.startswith("?:", self.place):
            self.place += 2
        first = self._alternatives(behind)
        if self._take() != ")":
            raise self._refused("an opening bracket without its closing one")
        self.depth -= 1
        return first

    def _escaped(self) -> Test:
        char = self._take()
        if char in CLASSES and char:
            return CLASSES[char]
        if not char or char.isalnum():
            raise self._refused(f"\\{char}")
        return lambda c: c == char

    def _set(self) -> Test:
        end = self.pattern.find("]", self.place + 1)
        inside = self.pattern[self.place : end]
        if end < 0 or "\\" in inside or "[" in inside:
            raise self._refused("a set of characters of another kind than [a-z0-9_]")
        self.place = end + 1
        turned, inside = inside.startswith("^"), inside.removeprefix("^")
        ranges = re.findall(r"(.)-(.)|(.)", inside)
        return lambda c: any(low <= c <= high if low else c == one for low, high, one in ranges) != turned

    def _refused(self, reason: str) -> NetworkFormatError:
        return NetworkFormatError(f"the pattern {readable(self.pattern, 60)} in {self.where} is not read: it has {reason}")


@lru_cache(maxsize=512)
def _compiled(pattern: str, where: str = "adapter_config.json") -> _Automaton:
    return _Automaton(pattern, where)
