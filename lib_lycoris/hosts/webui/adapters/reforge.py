"""reForge (Panchovix/stable-diffusion-webui-reForge), and Forge Classic, which has the same layers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from .a1111 import family as family_of
from .a1111 import hijack_table
from .adapter import Adapter, WordTable
from .forge_layers import ForgeLayers
from .forge_model import ForgeModel


class ReForge(ForgeModel):
    """reForge."""

    name = "reForge"
    layers = ForgeLayers()

    @classmethod
    def detect(cls) -> bool:
        """Tell whether we run inside it, by the folder that its layers come from."""
        return find_spec("modules_forge") is not None and find_spec("ldm_patched") is not None and find_spec("backend") is None

    def family(self, model: Any) -> str | None:
        """Return the family as A1111's flags say it, which this webui sets too; of the XL models the refiner has no CLIP-L."""
        if not getattr(model, "is_sdxl", False):
            return family_of(model)
        return "sdxl" if hasattr(self.parts(model).get("text_encoders"), "clip_l") else "sdxl-refiner"

    def unload(self) -> None:
        """Have its memory management move all models away; it loads what an image needs by itself."""
        from ldm_patched.modules import model_management

        model_management.unload_all_models()
        model_management.soft_empty_cache()

    def word_tables(self, model: Any) -> Sequence[WordTable]:
        """Return the webui's one table."""
        return [WordTable(*hijack_table(), owner=(model,))]

    def select_checkpoint(self, title: str) -> None:
        """Select a checkpoint as the field at the top does."""
        Adapter.select_checkpoint(self, title)
