"""The presets that the user saved on our pages: a file of our own, in the format of the block weight extension's."""

from __future__ import annotations

from pathlib import Path

from ..errors import PromptError, reason
from .presets import Presets, read_text
from .weights import BlockWeights

NAME = "lbwpresets.txt"


class OwnPresets:
    """The file in a host's data folder; it is read when it is asked for, and need not be there."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    @property
    def stamp(self) -> tuple[int, int, int] | None:
        """What changes when the file is written, even twice within one tick of the clock; None while there is none."""
        try:
            info = self.path.stat()
        except OSError:
            return None
        return info.st_mtime_ns, info.st_size, info.st_ino

    def text(self) -> str:
        """Return the file's text, empty if there is none; raise PromptError if it cannot be read."""
        return read_text(self.path) if self.path.is_file() else ""

    def added_to(self, presets: Presets) -> Presets:
        """Return presets with these beside them; raise PromptError if the file cannot be read."""
        return presets.joined(self.text())

    def names(self) -> tuple[str, ...]:
        """Return the names that the file gives; raise PromptError if it cannot be read."""
        return tuple(Presets(self.text(), "").own_names)

    def save(self, name: str, weights: BlockWeights) -> None:
        """Add a preset, or replace it; raise PromptError for a name that a tag cannot have or a file that cannot be written."""
        self._write(Presets(self.text(), "").with_weights(name, weights))

    def delete(self, name: str) -> None:
        """Take a preset out; raise PromptError if it is not in the file."""
        self._write(Presets(self.text(), "").without_weights(name))

    def _write(self, presets: Presets) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PromptError(f"the presets cannot be written to {self.path} ({reason(error)}); nothing was changed there") from error
        presets.save(self.path)
