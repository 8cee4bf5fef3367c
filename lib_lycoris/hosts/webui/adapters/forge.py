"""Forge (lllyasviel/stable-diffusion-webui-forge)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .forge_layers import ForgeLayers
from .forge_model import ForgeModel, has_backend


class Layers(ForgeLayers):
    """Forge keeps its networks on the layer, in ``forge_online_loras``, where the weight is quantised."""

    def functions(self, module: nn.Module, leaf: str) -> list[Any]:
        """Return what Forge adds to a parameter in each forward."""
        patches = self._online(module).get(leaf)
        if patches is None:
            return []
        from backend.patcher.lora import merge_lora_to_weight

        return [lambda weight: merge_lora_to_weight(patches=patches, weight=weight, key=leaf, computation_dtype=weight.dtype)]

    def keys(self, module: nn.Module, leaf: str) -> list[object]:
        """Return the list of patches: Forge makes a new one for other networks."""
        patches = self._online(module).get(leaf)
        return [] if patches is None else [patches]

    def _online(self, module: nn.Module) -> Mapping[str, Any]:
        found: Mapping[str, Any] = module.__dict__.get("forge_online_loras") or {}
        return found

    @contextmanager
    def off(self, module: nn.Module, leaves: Mapping[str, Tensor]) -> Iterator[None]:
        """Keep Forge from changing these parameters for a while."""
        own = self._online(module)
        if not any(leaf in own for leaf in leaves):
            yield
            return
        module.__dict__["forge_online_loras"] = {leaf: patches for leaf, patches in own.items() if leaf not in leaves}
        try:
            yield
        finally:
            module.__dict__["forge_online_loras"] = own


class Forge(ForgeModel):
    """Forge."""

    name = "Forge"
    layers = Layers()

    @classmethod
    def detect(cls) -> bool:
        """Tell whether we run inside it: it alone lets others add ways to compute a weight."""
        if not has_backend():
            return False
        from backend.patcher import lora

        return hasattr(lora, "extra_weight_calculators")
