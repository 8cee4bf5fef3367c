"""The files of the standalone app: networks and checkpoints in some folders, and where results go."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ...demo import CHECKPOINT
from ...errors import HostError
from ...prompt import OwnPresets, Presets
from ...tools.files.store import ModelFile
from ...wording import storable
from ..library.library import Library
from .folders import OldResults, data_folder, kept_folder, own_networks
from .host import EmbeddedHost
from .models import load_model

CHECKPOINTS = (".safetensors", ".ckpt", ".gguf")  # what the tools read; images are made with the first alone


class FolderStore:
    """Networks of a library, and the checkpoints beside the one that is loaded; new files go where those of their kind are."""

    def __init__(self, library: Library, checkpoints: Path, data: Path, kept: Path | None = None, host: EmbeddedHost | None = None) -> None:
        self.library = library
        self._folder = checkpoints
        self._data, self._kept = data, kept or data
        self._host = host
        self.old = OldResults(data, self._kept)
        self._look()

    def networks(self) -> Sequence[ModelFile]:
        """Return the network files by the names that tags use."""
        return self._networks

    def checkpoints(self) -> Sequence[ModelFile]:
        """Return the checkpoint files, and diffusers folders, in the folder of checkpoints."""
        return self._checkpoints

    def network_folder(self) -> Path:
        """Return the folder where new networks go: the last of those that are searched."""
        return _made(self.library.folders[-1])

    def checkpoint_folder(self) -> Path:
        """Return the folder where new checkpoints go."""
        return _made(self._folder)

    def data_folder(self) -> Path:
        """Return the folder for what can be made again."""
        return _made(self._data)

    def kept_folder(self) -> Path:
        """Return the folder for what people made and keep."""
        return _made(self._kept)

    def loaded(self) -> ModelFile | None:
        """Return the checkpoint that images are made with, where it is among those that are offered."""
        file = None if self._host is None else self._host.model.file
        same = [one for one in self._checkpoints if file is not None and one.path == file]
        named = [one for one in self._checkpoints if file == CHECKPOINT and one.name == CHECKPOINT.name]
        folders = [one for one in self._checkpoints if file is None and self._host is not None and one.name == self._host.model.name]
        return next(iter(same or named or folders), None)

    def presets(self) -> Presets:
        """Return our block weight presets with those that the user saved."""
        return OwnPresets(self._kept).added_to(Presets.default())

    def refresh(self) -> None:
        """Look at the folders again."""
        self.library.refresh()
        self._look()

    def _look(self) -> None:
        self._networks = tuple(ModelFile(name, file.path) for name, file in self.library.named.items())
        taken = {file.path for file in self.library.files}
        found = [path for path in _entries(self._folder) if path not in taken and _is_checkpoint(path)]
        self._checkpoints = tuple(ModelFile(storable(path.name), path) for path in sorted(found, key=lambda path: path.name.lower()))


def open_store(host: EmbeddedHost, ckpt: Path | None, networks: Path | None, data: Path | None) -> FolderStore:
    """Return the store of the app: the folders of its command line, else folders of our own, with the demo model to merge into.

    Raises HostError if our own folder cannot be written to.
    """
    data, kept = data or data_folder(), data or kept_folder()
    try:
        own = _made(own_networks(kept)) if networks is None else networks
        host.session.library = Library([*(folder for folder in host.library.folders if folder != own), own], data)
        host.library.scan()
        folder = demo_checkpoint(kept).parent if ckpt is None else ckpt.absolute().parent
    except OSError as error:
        raise HostError(f"the folder {kept} cannot be written to: {error}; choose another with --data-dir") from error
    store = FolderStore(host.library, folder, data, kept, host)
    host.session.presets = store.presets
    return store


def demo_checkpoint(data: Path) -> Path:
    """Return a copy of the demo model's checkpoint in a folder where new ones can be put beside it."""
    copy = _made(data / "checkpoints") / CHECKPOINT.name
    if not copy.is_file() or copy.stat().st_size != CHECKPOINT.stat().st_size:
        shutil.copyfile(CHECKPOINT, copy)
    return copy


def use_checkpoint(host: EmbeddedHost, path: Path) -> str:
    """Make images with another checkpoint from now on; return a sentence on it. Raises HostError, and all stays as it was."""
    weight = next(host.model.main.parameters())
    host.use(load_model(path, weight.device, weight.dtype))
    return f"Images are made with {host.model.name} now ({host.base.label})."


def _entries(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return []


def _is_checkpoint(path: Path) -> bool:
    return (path / "model_index.json").is_file() if path.is_dir() else path.suffix.lower() in CHECKPOINTS


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
