"""Forge Neo (Haoming02/sd-webui-forge-classic, branch neo)."""

from __future__ import annotations

from typing import Any

from ....errors import HostError
from ....patching import Patcher
from .forge_layers import ForgeLayers
from .forge_model import ForgeModel, has_backend


class Neo(ForgeModel):
    """Forge Neo."""

    name = "Forge Neo"
    layers = ForgeLayers()

    @classmethod
    def detect(cls) -> bool:
        """Tell whether we run inside it: it alone has functions on layers that are loaded in part."""
        if not has_backend():
            return False
        from backend.patcher import base

        return hasattr(base, "LowVramPatch")

    def patcher(self, model: Any) -> Patcher:
        """Return a patcher of the model's layers; raise HostError for one that Nunchaku computes."""
        from backend.args import dynamic_args

        if getattr(dynamic_args, "nunchaku", False):
            raise HostError(
                f"{self.label(model)} is computed by Nunchaku, in kernels of its own that no network of ours can reach; "
                "use the same model in another form (fp8, GGUF or full precision)"
            )
        return super().patcher(model)

    def select_checkpoint(self, title: str) -> None:
        """Select a checkpoint as the field at the top does, for no preset in particular; it is loaded with the next image."""
        from modules_forge import main_entry

        main_entry.checkpoint_change(title, None)
