"""Where a program keeps network files and checkpoints: what pages and jobs offer by name, and where results go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...records import dataclass

if TYPE_CHECKING:
    from ...prompt import Presets


@dataclass(frozen=True)
class ModelFile:
    """A file that a page offers: the name that people see (a network's is what a tag takes), and where it lies."""

    name: str
    path: Path


class FileStore(Protocol):
    """Where a host keeps files: what the pages offer, and where their results go."""

    def networks(self) -> Sequence[ModelFile]:
        """Return the network files, sorted by name, as of the last :meth:`refresh`."""

    def checkpoints(self) -> Sequence[ModelFile]:
        """Return the base models' checkpoint files, sorted by name."""

    def network_folder(self) -> Path:
        """Return the folder where new networks go."""

    def checkpoint_folder(self) -> Path:
        """Return the folder where new checkpoints go."""

    def data_folder(self) -> Path:
        """Return the folder for what can be made again: indexes, measurements."""

    def kept_folder(self) -> Path:
        """Return the folder for what people made on our pages and keep: images, presets, stacks, the list of results."""

    def loaded(self) -> ModelFile | None:
        """Return the checkpoint that images are made with; None where none is loaded, or one that is not among the offered."""

    def presets(self) -> Presets:
        """Return the block weight presets as they are now; raise PromptError for a file that cannot be read."""

    def refresh(self) -> None:
        """Look at the folders again."""
