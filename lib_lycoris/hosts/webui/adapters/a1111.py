"""AUTOMATIC1111's webui: torch's own layers, whose forwards its built-in loader has replaced."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from torch import nn

from ....patching import Patcher
from .adapter import Adapter, WordTable
from .dispatch import DispatchedPatcher, Dispatcher


class A1111(Adapter):
    """AUTOMATIC1111's webui."""

    name = "webui"

    def __init__(self) -> None:
        self.guard: Dispatcher = Dispatcher()
        self._unloaded: weakref.ref[Any] | None = None

    @classmethod
    def detect(cls) -> bool:
        """Tell whether we run inside it, or in another one of which nothing more is known; the Forges have folders of their own."""
        return "modules.extra_networks" in sys.modules and not find_spec("modules_forge")

    def unload(self) -> None:
        """Move the model to the CPU, where the webui itself would leave it: its next image would end in an error of torch."""
        from modules import sd_models

        model = self.current()
        if model is not None:
            sd_models.send_model_to_cpu(model)
            self._unloaded = weakref.ref(model)

    def load_back(self) -> None:
        """Move it to the GPU again, unless the webui has another model by now."""
        from modules import sd_models

        model = self._unloaded() if self._unloaded is not None else None
        if model is not None and model is self.current():
            sd_models.send_model_to_device(model)
        self._unloaded = None

    def patcher(self, model: Any) -> Patcher:
        """Return a patcher of the UNet's and the text encoders' layers, reached through the built-in loader's innermost calls."""
        return DispatchedPatcher(parts(model), family(model), self.guard)

    def family(self, model: Any) -> str:
        """Return the family of the loaded model."""
        return family(model)

    def word_tables(self, model: Any) -> Sequence[WordTable]:
        """Return the webui's one table."""
        return [WordTable(*hijack_table(), owner=(model,))]


def hijack_table() -> tuple[Any, Any]:
    """Return the table of embeddings that the webui's hijack of text encoders uses, and the module that reads embedding files."""
    from modules import sd_hijack
    from modules.textual_inversion import textual_inversion

    return sd_hijack.model_hijack.embedding_db, textual_inversion


def family(model: Any) -> str:
    """Return the family of the loaded model as the webui itself tells it: widths of a live model need not be the usual ones."""
    if getattr(model, "is_sd3", False):
        return "sd3"
    if getattr(model, "is_sdxl", False):
        first = model.conditioner.embedders[0]
        return "sdxl" if hasattr(getattr(first, "wrapped", first), "transformer") else "sdxl-refiner"
    return "sd2" if getattr(model, "is_sd2", False) else "sd1"


def parts(model: Any) -> dict[str, nn.Module]:
    """Return the UNet's and the text encoders' modules; the webui holds the same encoder under two names."""
    conditioner = getattr(model, "conditioner", None)
    if conditioner is not None:
        return {"model": model.model, "conditioner": conditioner}
    return {"model": model.model, "cond_stage_model": model.cond_stage_model}
