"""Named block weights and element filters, in the text formats of the block weight extension."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from ..atomic import write_text
from ..errors import PromptError, reason
from ..models.blocks import LAYOUTS
from ..records import dataclass
from .elements import ElementRule, parse_rule
from .number import is_number
from .preset_tables import CLASSIC_TEXT, ELEMENTS_TEXT, NAMED_TEXT
from .weights import BlockWeights, parse_weights


@dataclass(frozen=True)
class Presets:
    """The presets of a tag's `lbw=` and `lbwe=`: two texts, kept whole so that saving loses no comment of the user.

    `weights_text` has a line `NAME:v,v,...` for each; a line with `#`, or with a count that no layout has, is skipped.
    `elements_text` has sets split by blank lines, each `NAME:BLOCKS:ELEMENTS:RATIO` and more rules after `,` or a line.
    """

    weights_text: str
    elements_text: str

    @classmethod
    def default(cls) -> Presets:
        """Return our own presets."""
        return cls(CLASSIC_TEXT + NAMED_TEXT, ELEMENTS_TEXT)

    @classmethod
    def load(cls, weights_path: str | Path | None, elements_path: str | Path | None = None) -> Presets:
        """Read the files of the block weight extension; ours stand in for one that is not given.

        Raise PromptError for a file that cannot be read. Our SDXL-* and FLUX-* names work beside a file's names.
        """
        return cls(
            read_text(weights_path) if weights_path else cls.default().weights_text,
            read_text(elements_path) if elements_path else ELEMENTS_TEXT,
        )

    def save(self, weights_path: str | Path, elements_path: str | Path | None = None) -> None:
        """Write the texts; each file is written beside its place and renamed. Raise PromptError if that fails."""
        _write(weights_path, self.weights_text)
        if elements_path:
            _write(elements_path, self.elements_text)

    def with_weights(self, name: str, weights: BlockWeights) -> Presets:
        """Return these presets with one added, or replaced in its place."""
        if not name.strip():
            raise PromptError("Give the preset a name.")
        if len(name.splitlines()) > 1 or re.search(r"[:#<>=,]", name) or is_number(name):
            raise PromptError("A name cannot be a number or contain : # < > = ,")
        line = f"{name.strip()}:{weights.format()}"
        lines = self.weights_text.splitlines()
        places = [i for i, old in enumerate(lines) if _entry(old) and old.partition(":")[0].strip() == name.strip()]
        kept = [line if i in places[-1:] else old for i, old in enumerate(lines)]
        return Presets("\n".join(kept if places else [*kept, line]) + "\n", self.elements_text)

    def without_weights(self, name: str) -> Presets:
        """Return these presets without the lines of one name; raise PromptError if there is none."""
        lines = self.weights_text.splitlines()
        kept = [line for line in lines if not (_entry(line) and line.partition(":")[0].strip() == name.strip())]
        if len(kept) == len(lines):
            raise PromptError(f'there is no preset "{name}" to delete{_nearest(name, self._weights)}')
        return Presets("".join(f"{line}\n" for line in kept), self.elements_text)

    def joined(self, own: str) -> Presets:
        """Return these presets and those of another text, which win where both have a name."""
        return Presets(f"{self.weights_text.rstrip()}\n{own}", self.elements_text) if own.strip() else self

    def weights(self, name: str) -> BlockWeights:
        """Return a preset's weights; raise PromptError naming the nearest names if there is none."""
        found = self._weights.get(name) or _NAMED.get(name)
        if found is None:
            raise PromptError(f'there is no preset "{name}"{_nearest(name, self.weight_names)}')
        try:
            return parse_weights(found)
        except PromptError as error:
            raise PromptError(f'in the preset "{name}", {error}') from error

    def elements(self, name: str) -> tuple[ElementRule, ...]:
        """Return a set of element filters; raise PromptError naming the nearest names if there is none."""
        if name not in self._elements:
            hint = _nearest(name, self.element_names)
            raise PromptError(f'there is no set of element filters "{name}"{hint}, or BLOCKS:ELEMENTS:RATIO in the tag')
        try:
            return tuple(parse_rule(rule) for rule in self._elements[name])
        except PromptError as error:
            raise PromptError(f'in the element filters "{name}", {error}') from error

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The names that `lbw=` knows, those of the text first."""
        return tuple({**self._weights, **_NAMED})

    @property
    def own_names(self) -> tuple[str, ...]:
        """The names in the text alone."""
        return tuple(self._weights)

    @property
    def element_names(self) -> tuple[str, ...]:
        """The names that `lbwe=` knows."""
        return tuple(self._elements)

    @cached_property
    def _weights(self) -> dict[str, str]:
        return _weight_entries(self.weights_text)

    @cached_property
    def _elements(self) -> dict[str, list[str]]:
        return _element_sets(self.elements_text)


def _entry(line: str) -> tuple[str, str] | None:
    name, colon, values = line.partition(":")
    if not colon or "#" in line or not name.strip() or len(values.split(",")) not in LAYOUTS:
        return None
    return name.strip(), values.strip()


def _weight_entries(text: str) -> dict[str, str]:
    return dict(entry for line in text.splitlines() if (entry := _entry(line)))


_NAMED = _weight_entries(NAMED_TEXT)


def _element_sets(text: str) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    name = ""  # of the set that the line belongs to
    for line in text.splitlines():
        if not line.strip():
            name = ""
            continue
        # A named line also opens a set without a blank line before it: files edited by hand often lack that.
        if not name or line.partition(",")[0].count(":") == 3:
            name, _, line = (piece.strip() for piece in line.partition(":"))
            sets[name] = []
        sets[name] += [rule for rule in line.split(",") if rule.count(":") == 2]
    return {name: rules for name, rules in sets.items() if name}


def _nearest(name: str, names: Iterable[str]) -> str:
    by_upper = {known.upper(): known for known in names}
    near = [by_upper[upper] for upper in difflib.get_close_matches(name.upper(), by_upper, n=3, cutoff=0.5)]
    if near:
        return f"; the nearest are {', '.join(near)}"
    return f"; there are {', '.join(by_upper.values())}" if by_upper else ""


def read_text(path: str | Path) -> str:
    """Return the text of a file of presets; raise PromptError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"the presets in {path} cannot be read: {reason(error)}; expected a UTF-8 text file") from error


def _write(path: str | Path, text: str) -> None:
    try:
        write_text(Path(path), text)
    except (OSError, UnicodeEncodeError) as error:  # half a character cannot be written
        raise PromptError(f"the presets cannot be written to {path} ({reason(error)}); nothing was changed there") from error
