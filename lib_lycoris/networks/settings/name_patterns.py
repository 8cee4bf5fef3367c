"""Does a module's name match a pattern out of a file? Read without executing it: a subset of regular expressions, in linear time.

PEFT's configs name modules by regular expressions. What trainers write is read: literal names, ``.``, ``\\d``, ``\\w``, ``[...]``,
groups with ``|``, ``*``, ``+``, ``?`` behind any of them, ``^`` and ``$`` around all. The states of a pattern are followed together, so
the time is bounded by its length times the name's; what goes beyond is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import takewhile
from typing import Any

from ...errors import NetworkFormatError, readable

LONGEST_PATTERN = 500  # characters, of those that are no plain name
MOST_KNOWN = 200_000  # states in the sets that are remembered
MOST_WORK = 2_000_000  # states that are looked at anew for the names of one file: a trainer's patterns take some thousands
DEEPEST = 20  # groups in groups
MOST_FORMS = 300  # of plain names in one table: lengths with the places of dots; the names of a model have some dozens
MOST_EXPRESSIONS = 16  # in one table
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


def check_work(pattern: str, names: Iterable[str]) -> None:
    """Raise NetworkFormatError for a pattern that has more ways to fit these names than can be followed."""
    try:
        automaton = _compiled(pattern)
    except NetworkFormatError:  # is said of each module that it is asked for
        return
    before = automaton.work
    for name in names:
        automaton.matches(name, [0, *(i + 1 for i, c in enumerate(name) if c == ".")])
        if automaton.work - before > MOST_WORK:
            raise automaton.refused("more ways to fit the names of this file than can be followed")


def covers(pattern: str, name: str) -> bool:
    """Tell whether a pattern matches all of a name. Raises NetworkFormatError for one that is not read."""
    return _compiled(pattern).matches(name, [0])


class Endings:
    """Ends of names. However many there are, a name is compared with one of each length."""

    def __init__(self, ends: Iterable[str]) -> None:
        self._ends = frozenset(ends)
        self._lengths = sorted({len(end) for end in self._ends})

    def end(self, name: str) -> bool:
        """Tell whether one of them ends a name."""
        return any(name[len(name) - length :] in self._ends for length in takewhile(lambda length: length <= len(name), self._lengths))


class NameTable:
    """What PEFT's table of patterns says of modules: the first one that ends a name counts (see :func:`ends_with`).

    Plain names are found by their form - their length and where their dots are, which stand for any character - so that thousands of them
    take no longer than some dozens.
    """

    def __init__(self, table: Mapping[str, Any], where: str) -> None:
        """Sort out a table. Raises NetworkFormatError for one of more forms or expressions than any trainer writes."""
        self._forms: dict[tuple[int, tuple[int, ...]], dict[str, tuple[int, Any]]] = {}
        self._expressions: list[tuple[int, str, Any]] = []
        for order, (pattern, value) in enumerate(table.items()):
            if LITERAL.fullmatch(pattern):
                form = (len(pattern), tuple(place for place, char in enumerate(pattern) if char == "."))
                self._forms.setdefault(form, {})[pattern] = (order, value)
            else:
                self._expressions.append((order, pattern, value))
            if len(self._forms) > MOST_FORMS or len(self._expressions) > MOST_EXPRESSIONS:
                raise NetworkFormatError(f"{where} has more patterns of different kinds than any trainer writes; it is not read")

    @property
    def expressions(self) -> list[str]:
        """The patterns that are no plain names."""
        return [pattern for _, pattern, _ in self._expressions]

    def first(self, name: str) -> Any:
        """Return what is said of a name; None for nothing. Raises NetworkFormatError for a pattern that is not read."""
        order, found = min(self._plain(name), key=lambda one: one[0], default=(None, None))
        for place, pattern, value in self._expressions:
            if order is not None and place > order:
                break
            if ends_with(pattern, name):
                return value
        return found

    def _plain(self, name: str) -> Iterator[tuple[int, Any]]:
        for (length, dots), names in self._forms.items():
            start = len(name) - length
            if start == 0 or (start > 0 and name[start - 1] == "."):
                tail = list(name[start:])
                for place in dots:
                    tail[place] = "."
                if (found := names.get("".join(tail))) is not None:
                    yield found


def found_in(pattern: str, name: str, where: str) -> bool:
    """Tell whether a pattern fits somewhere in a name; where: the file that it stands in. Raises NetworkFormatError."""
    if LITERAL.fullmatch(pattern):
        places = range(len(name) - len(pattern) + 1) if _longest_piece(pattern) in name else ()
        return any(all(p in (c, ".") for p, c in zip(pattern, name[place:])) for place in places)
    starts = [0] if pattern.startswith("^") else range(len(name) + 1)
    return _compiled(pattern, where).matches(name, starts, to_end=pattern.endswith("$"))


@lru_cache(maxsize=8192)
def _longest_piece(pattern: str) -> str:
    """Return the longest part of a plain name without a dot: a name without it cannot fit."""
    return max(pattern.split("."), key=len)


class _Automaton:
    """A pattern's states; 0 is the end."""

    def __init__(self, pattern: str, where: str) -> None:
        self.where = where
        self.pattern, self.place, self.depth = pattern.removeprefix("^").removesuffix("$"), 0, 0
        self.states: list[State] = [(None, [])]
        self._known: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        self._final: dict[frozenset[int], bool] = {}
        self._held = 0  # states in both
        self.work = 0  # states looked at since the beginning
        if len(pattern) > LONGEST_PATTERN:
            raise self.refused(f"more than {LONGEST_PATTERN} characters")
        self.first = self._alternatives(0)
        if self.place != len(self.pattern):
            raise self.refused("a closing bracket without its opening one")
        if len(self.states[self.first][1]) > 1 and self.pattern != pattern:
            raise self.refused("an anchor beside alternatives")

    def matches(self, name: str, starts: Iterable[int], to_end: bool = True) -> bool:
        """Tell whether the pattern covers a name from one of these places to its end, or to any place behind."""
        begin, current = set(starts), frozenset[int]()
        for place, char in enumerate(name):
            if place in begin:
                current |= {self.first}
            if not to_end and self._ends(current):
                return True
            current = self._next(current, char)
        return self._ends(current | {self.first} if len(name) in begin else current)

    def _ends(self, states: frozenset[int]) -> bool:
        if states not in self._final:
            self._hold(states)
            self._final[states] = 0 in self._reachable(states)
        return self._final[states]

    def _hold(self, states: frozenset[int]) -> None:
        """Count states that are about to be remembered; forget all where they are too many."""
        self._held += len(states)
        if self._held > MOST_KNOWN:
            self._known.clear()
            self._final.clear()
            self._held = len(states)

    def _next(self, states: frozenset[int], char: str) -> frozenset[int]:
        if (states, char) not in self._known:
            reached = [self.states[state] for state in self._reachable(states)]
            after = frozenset(new for test, behind in reached if test and test(char) for new in behind)
            self._hold(after)
            self._known[states, char] = after
        return self._known[states, char]

    def _reachable(self, states: frozenset[int]) -> set[int]:
        found, waiting = set(states), list(states)
        while waiting:
            test, behind = self.states[waiting.pop()]
            if test is None:
                waiting.extend(new for new in behind if new not in found)
                found.update(behind)
        self.work += len(found) + 1
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
            raise self.refused(f"{char} where no repetition or anchor is read")
        return self._state((lambda c: True) if char == "." else (lambda c: c == char), [behind])

    def _group(self, behind: int) -> int:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.refused("groups too deep in each other")
        if self.pattern.startswith("?:", self.place):
            self.place += 2
        first = self._alternatives(behind)
        if self._take() != ")":
            raise self.refused("an opening bracket without its closing one")
        self.depth -= 1
        return first

    def _escaped(self) -> Test:
        char = self._take()
        if char in CLASSES and char:
            return CLASSES[char]
        if not char or char.isalnum():
            raise self.refused(f"\\{char}")
        return lambda c: c == char

    def _set(self) -> Test:
        end = self.pattern.find("]", self.place + 1)
        inside = self.pattern[self.place : end]
        if end < 0 or "\\" in inside or "[" in inside:
            raise self.refused("a set of characters of another kind than [a-z0-9_]")
        self.place = end + 1
        turned, inside = inside.startswith("^"), inside.removeprefix("^")
        ranges = re.findall(r"(.)-(.)|(.)", inside)
        return lambda c: any(low <= c <= high if low else c == one for low, high, one in ranges) != turned

    def refused(self, reason: str) -> NetworkFormatError:
        """Return the error for a pattern that is not read."""
        return NetworkFormatError(f"the pattern {readable(self.pattern, 60)} in {self.where} is not read: it has {reason}")


@lru_cache(maxsize=512)
def _compiled(pattern: str, where: str = "adapter_config.json") -> _Automaton:
    return _Automaton(pattern, where)
