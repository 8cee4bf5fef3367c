"""The webui's files: networks and checkpoints as it lists them, and where results of the tools go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import HostError
from ...prompt import Presets
from ...tools.files.store import ModelFile
from ...wording import storable
from .folders import data_folder, kept_folder
from .interface.card_files import library


class WebuiFileStore:
    """What our pages and our API may read and write in the webui."""

    def networks(self) -> Sequence[ModelFile]:
        """Return the network files by the names that tags use."""
        return [ModelFile(name, file.path) for name, file in library().named.items()]

    def checkpoints(self) -> Sequence[ModelFile]:
        """Return the checkpoints that the webui lists, by their names in its list, without the hash."""
        from modules import sd_models

        found = {storable(info.name): Path(info.filename) for info in sd_models.checkpoints_list.values()}
        return [ModelFile(name, found[name]) for name in sorted(found, key=str.lower)]

    def network_folder(self) -> Path:
        """Return the folder for new networks."""
        from .host import host

        return _made(host().webui.network_folder())

    def checkpoint_folder(self) -> Path:
        """Return the folder that the webui's own checkpoint merger writes to."""
        from .host import host

        return _made(host().webui.checkpoint_folder())

    def data_folder(self) -> Path:
        """Return the folder for what can be made again."""
        return _made(data_folder())

    def kept_folder(self) -> Path:
        """Return the folder for what people made on our pages and keep."""
        return _made(kept_folder())

    def loaded(self) -> ModelFile | None:
        """Return the checkpoint that the webui makes images with."""
        from .host import host

        info = host().webui.checkpoint()
        return None if info is None else ModelFile(storable(info.name), Path(info.filename))

    def presets(self) -> Presets:
        """Return the block weight presets that tags know here."""
        from .host import host

        return host().presets()

    def refresh(self) -> None:
        """Look at the folders again, and have the webui do so for checkpoints."""
        from modules import sd_models

        library().refresh()
        sd_models.list_models()


def use_checkpoint(path: Path) -> str:
    """Select a checkpoint as its field at the top does; return a sentence. Raises HostError if the webui could not load it."""
    from .host import host

    host().webui.select_checkpoint(checkpoint_title(path))
    return f"{path.name} is selected: the next images are made with it."


def unload() -> str:
    """Give the memory of the loaded model back; return a sentence."""
    from .host import host

    return host().unload()


def checkpoint_title(path: Path) -> str:
    """Return what the webui calls a checkpoint in its list, after a fresh look. Raises HostError if it is not there."""
    from modules import sd_models

    sd_models.list_models()
    for info in sd_models.checkpoints_list.values():
        if Path(info.filename).resolve() == path.resolve():
            return str(info.title)
    raise HostError(f"{path.name} is not in the webui's list of checkpoints; is {path.parent} one of its folders?")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
