"""What the models of Forge, reForge and Forge Neo have in common: an engine that holds a UNet or transformer and text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from ....errors import HostError, LycorisError
from ....models import FAMILIES
from ....patching import Patcher
from .adapter import Adapter, WordTable, parts_identity
from .forge_layers import ForgeLayers
from .guard import Guard, GuardedPatcher

UNKNOWN_SHARE = 0.1  # of a model's layers: with more of them unknown, it is not of the family that its class says
ENGINES = {  # class of the host's engine -> family; Wan and Flux2, which are several families, are told from the layers, as others are
    "StableDiffusion": "sd1", "StableDiffusion2": "sd2", "StableDiffusionXL": "sdxl", "StableDiffusionXLRefiner": "sdxl-refiner",
    "Mugen": "sdxl", "StableDiffusion3": "sd3", "Flux": "flux", "Chroma": "chroma", "Lumina2": "lumina2", "ZImage": "z-image",
    "QwenImage": "qwen-image", "Anima": "anima", "Krea2": "krea2", "ErnieImage": "ernie-image",
}  # fmt: skip


def has_backend() -> bool:
    """Tell whether we run inside Forge or one that grew from it since it computes with modules of its own, called ``backend``."""
    return find_spec("modules_forge") is not None and find_spec("backend") is not None


class ForgeModel(Adapter):
    """A webui whose models are engines with ``forge_objects``."""

    layers: ForgeLayers

    def __init__(self) -> None:
        self.guard = Guard()

    def current(self) -> Any:
        """Return the engine that the webui computes with now; None before the first one is loaded."""
        model = super().current()
        return model if getattr(model, "forge_objects_original", None) is not None else None

    def checkpoint(self) -> Any:
        """Return the entry of the checkpoint that images are made with: Forge and Neo load the selected one with the next image."""
        return selected() or super().checkpoint()

    def family_in_use(self) -> str | None:
        """Return the family of the checkpoint that images are made with; a file tells it before it is loaded."""
        chosen = selected()
        if chosen is None:
            return super().family_in_use()
        file = Path(chosen.filename)
        return family_of_file(file, file.stat().st_mtime_ns) if file.is_file() else None

    def identity(self, model: Any) -> str:
        """Return a text that changes with the engine, its checkpoint, and a text encoder that is put in another's place."""
        return f"{super().identity(model)}:{parts_identity(self.parts(model))}" if model is not None else ""

    def parts(self, model: Any) -> dict[str, nn.Module]:
        """Return the UNet or transformer and the text encoders."""
        objects = model.forge_objects_original
        found = {"model": objects.unet.model}
        if objects.clip is not None:
            found["text_encoders"] = objects.clip.cond_stage_model
        return found

    def family(self, model: Any) -> str | None:
        """Return the family that the engine's class says; None where it is one that we do not have."""
        found = ENGINES.get(type(model).__name__)
        return found if found in FAMILIES else None

    def patcher(self, model: Any) -> Patcher:
        """Return a patcher that gives each layer a forward of its own; raise HostError for a model whose layers are not known."""
        found = GuardedPatcher(self.parts(model), self.family(model), self.layers, self.guard)
        unknown = [name for name in found.names.unknown if name.startswith("model.")]
        known = len(found.base.layers)
        if len(unknown) > UNKNOWN_SHARE * (known + len(unknown)):
            kind = type(model).__name__
            raise HostError(f"{self.label(model)} is a {kind}, and {len(unknown)} of its layers are not known here, such as {unknown[0]}")
        return found

    def unload(self) -> None:
        """Have its memory management move all models away; it loads what an image needs by itself."""
        from backend import memory_management

        memory_management.unload_all_models()
        memory_management.soft_empty_cache()

    def word_tables(self, model: Any) -> Sequence[WordTable]:
        """Return the tables of the engine's text encoders."""
        from backend.text_processing import textual_inversion

        engines = [engine for name, engine in sorted(vars(model).items()) if name.startswith("text_processing_engine")]
        return [WordTable(table, textual_inversion) for engine in engines if (table := getattr(engine, "embeddings", None)) is not None]

    def select_checkpoint(self, title: str) -> None:
        """Select a checkpoint as the field at the top does; it is loaded with the next image."""
        from modules_forge import main_entry

        main_entry.checkpoint_change(title)


def selected() -> Any:
    """Return the entry of the checkpoint that is loaded with the next image; None in reForge, which loads at once."""
    from modules import sd_models

    return (getattr(sd_models.model_data, "forge_loading_parameters", None) or {}).get("checkpoint_info")


@lru_cache(maxsize=16)
def family_of_file(file: Path, changed: int) -> str | None:
    """Return the family of a checkpoint by its header; None where that does not tell it."""
    from ....tools.files.checkpoints.checkpoint import open_checkpoint

    try:
        return open_checkpoint(file).base.family
    except (LycorisError, OSError):
        return None
