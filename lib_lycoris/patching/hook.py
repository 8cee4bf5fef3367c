"""What is called in place of a module's forward."""

from __future__ import annotations

from typing import Any

from torch import nn

from .layers.layer import PatchedLayer


class Hook:
    """Stands in for a module's forward; does nothing but call it once the changes are taken off."""

    def __init__(self, module: nn.Module, layer: PatchedLayer) -> None:
        self.own: Any = module.__dict__.get("forward")  # set by another program on this one module, such as accelerate
        self.inner = self.own if self.own is not None else type(module).forward.__get__(module)
        self.layer: PatchedLayer | None = layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the changed output, or the module's own."""
        return self.inner(*args, **kwargs) if self.layer is None else self.layer(self.inner, *args, **kwargs)
