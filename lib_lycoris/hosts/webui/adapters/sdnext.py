"""SD.Next: our tab, its tools and their API; its models are pipelines of diffusers, which no network of ours is put on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ....errors import HostError
from ....patching import Patcher
from .adapter import Adapter
from .guard import Guard

SENTENCE = (
    "<lyco:...> does nothing in SD.Next, whose models are pipelines that this extension does not change: "
    "write <lora:NAME:STRENGTH>, which its own loader reads; our tab, its tools and their API work"
)


class SDNext(Adapter):
    """SD.Next."""

    name = "SD.Next"
    applies = False

    def __init__(self) -> None:
        self.guard = Guard()

    @classmethod
    def detect(cls) -> bool:
        """Tell whether we run inside it, by what its options module alone says of its backend."""
        return getattr(sys.modules.get("modules.shared"), "native", None) is not None

    def patcher(self, model: Any) -> Patcher:
        """Raise HostError: nothing here is changed."""
        raise HostError(SENTENCE)

    def unload(self) -> None:
        """Have it drop its model, which it loads again for the next image."""
        from modules import sd_models

        sd_models.unload_model_weights(op="model")

    def family_in_use(self) -> str | None:
        """Return None: its names of models are many more than ours, and shared.sd_model would load one."""
        return None

    def network_folder(self) -> Path:
        """Return the folder in which its own loader finds networks."""
        from modules import shared

        return Path(shared.opts.lora_dir)

    def checkpoint_folder(self) -> Path:
        """Return the folder of checkpoints, which is a setting."""
        from modules import shared

        return Path(shared.opts.ckpt_dir)

    def version(self) -> str:
        """Return the commit that it was started from."""
        import installer  # type: ignore[import-not-found,unused-ignore]

        return str(installer.git_commit)

    def api_guard(self) -> Callable[..., Any] | None:
        """Return its own check of name and password, which --auth asks for."""
        from modules import shared

        api = getattr(shared, "api", None)
        return api.auth if api is not None and api.credentials else None
