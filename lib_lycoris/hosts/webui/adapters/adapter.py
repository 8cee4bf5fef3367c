"""What differs between the webuis: which model is loaded, how its layers are read and hooked, where its words and files are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ....errors import HostError
from ....models import FAMILIES
from ....patching import Patcher
from ....records import dataclass
from .guard import Guard


@dataclass(frozen=True)
class WordTable:
    """A webui's table of embeddings, as its own code reads and writes it."""

    database: Any
    reader: Any  # the module that makes an embedding of a file's content
    owner: tuple[Any, ...] = ()  # what its functions want besides

    def known(self, word: str) -> Any:
        """Return the embedding of a word; None for a word without one."""
        return self.database.word_embeddings.get(word)

    def make(self, data: dict[str, Any], word: str, filename: str) -> Any:
        """Return an embedding of what an embedding file of that name would hold."""
        return self.reader.create_embedding_from_data(data, word, filename)

    def refuses(self, embedding: Any) -> str | None:
        """Say why an embedding is for another model; None if it is for this one."""
        wanted = self.database.expected_shape
        return None if wanted in (-1, embedding.shape) else f"{wanted} wide, not {embedding.shape}"

    def put(self, embedding: Any) -> None:
        """Have its word mean it."""
        self.database.register_embedding(embedding, *self.owner)

    def remove(self, word: str, embedding: Any) -> None:
        """Take a word out that still means this embedding."""
        if self.known(word) is embedding:
            self.database.register_embedding_by_name(None, *self.owner, word)


class Adapter:
    """A webui of the family that AUTOMATIC1111's began; each of them is a small subclass."""

    name = "webui"
    applies = True  # whether networks can be put on its models; without that the tab, its tools and their API are all there is
    guard: Guard

    @classmethod
    def detect(cls) -> bool:
        """Tell whether we run inside this webui, by what can be imported."""
        raise HostError("this webui is none that we know")

    def current(self) -> Any:
        """Return the model that the webui computes with now; None while there is none. Never loads one."""
        from modules import sd_models

        return sd_models.model_data.sd_model

    def identity(self, model: Any) -> str:
        """Return a text that changes with the model object and with the checkpoint whose weights it holds."""
        info = getattr(model, "sd_checkpoint_info", None)
        return f"{id(model)}:{getattr(info, 'filename', '')}"

    def label(self, model: Any) -> str:
        """Return the checkpoint's name."""
        info = getattr(model, "sd_checkpoint_info", None)
        return str(getattr(info, "name_for_extra", "the loaded model"))

    def checkpoint(self) -> Any:
        """Return the webui's entry of the checkpoint that images are made with; None while there is none. Never loads one."""
        from modules import sd_models

        return getattr(getattr(sd_models.model_data, "sd_model", None), "sd_checkpoint_info", None)

    def family_in_use(self) -> str | None:
        """Return the family of the checkpoint that images are made with, after one that is being loaded; None if it cannot be told."""
        from modules import shared

        model = shared.sd_model
        return None if model is None else self.family(model)

    def unload(self) -> None:
        """Give the GPU's memory back that the loaded model takes; :meth:`load_back` or the webui itself loads it for the next image."""
        raise HostError(f"{self.name} keeps its model loaded")

    def load_back(self) -> None:
        """Load what :meth:`unload` put away, at the beginning of a run; most webuis do so themselves."""

    def patcher(self, model: Any) -> Patcher:
        """Return a patcher of the model's layers, hooked as this webui allows; raise HostError for a model that cannot be changed."""
        raise HostError(f"{self.name} has no model that can be changed")

    def family(self, model: Any) -> str | None:
        """Return the family of a model as the webui tells it: widths of a live model need not be the usual ones; None if it cannot."""
        return None

    def size(self, model: Any) -> int:
        """Return the side of a square image that suits a model, in pixels; 512 while there is none."""
        family = None if model is None else self.family(model)
        return 512 if family is None else FAMILIES[family].size

    def word_tables(self, model: Any) -> Sequence[WordTable]:
        """Return the tables in which the model's text encoders look words up."""
        return ()

    def network_folder(self) -> Path:
        """Return the folder for new networks: --lyco-dir, or models/LyCORIS."""
        from modules import paths, shared

        named = [getattr(shared.cmd_opts, name, None) for name in ("lyco_dir", "lyco_dir_backcompat")]
        return Path(next(filter(None, named), None) or Path(paths.models_path) / "LyCORIS")

    def api_guard(self) -> Callable[..., Any] | None:
        """Return the check of name and password that --api-auth asks for, or None without that option."""
        from modules import shared

        from ...jobs_api import password_check

        given = getattr(shared.cmd_opts, "api_auth", None)
        return password_check(given) if given else None

    def checkpoint_folder(self) -> Path:
        """Return the folder for new checkpoints: the first one that the command line names, or the webui's own."""
        from modules import sd_models, shared

        named = [getattr(shared.cmd_opts, "ckpt_dir", None), *(getattr(shared.cmd_opts, "ckpt_dirs", None) or ())]
        return Path(next(filter(None, named), None) or sd_models.model_path)

    def version(self) -> str:
        """Return the webui's version."""
        from modules import launch_utils

        return str(launch_utils.git_tag())

    def select_checkpoint(self, title: str) -> None:
        """Select a checkpoint as the field at the top does; raise HostError if it could not be loaded."""
        from modules import shared

        if shared.opts.sd_model_checkpoint != title and not shared.opts.set("sd_model_checkpoint", title):
            raise HostError("the webui could not load it; its console says why")
        shared.opts.save(shared.config_filename)


def parts_identity(parts: dict[str, nn.Module]) -> str:
    """Return a text that changes when a part of a model is replaced by another object."""
    return ":".join(str(id(part)) for part in parts.values())
