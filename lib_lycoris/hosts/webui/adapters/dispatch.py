"""The innermost call of a layer: where the webui's own loader calls torch's forward, ours comes in between.

That loader has then put <lora:...> into the weight, so networks of ours see it as part of the base, whatever the order of the tags. Without
that loader torch's classes are patched through ``modules.patches``. Hooks are made at the first tag and never undone: another program may
have put its own around them. Without a plan they do nothing but one look-up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from torch import nn

from ....patching import Patcher
from ....patching.layers.layer import PatchedLayer
from .guard import Guard, GuardedLayer

KEY = "lib_lycoris"  # who we are to modules.patches
KINDS: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)


class Dispatcher(Guard):
    """Calls the changed form of a layer where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: dict[nn.Module, PatchedLayer] = {}
        self._hooked: object = None

    def install(self) -> None:
        """Hook the forwards, once for each set of them: the webui makes a new one when its UI is reloaded."""
        originals = getattr(sys.modules.get("networks"), "originals", None)
        if originals is None:
            self._patch_classes()
        elif self._hooked is not originals:
            for kind in KINDS:
                name = f"{kind.__name__}_forward"
                setattr(originals, name, self._around(getattr(originals, name), kind is nn.MultiheadAttention))
            self._hooked = originals

    def _patch_classes(self) -> None:
        from modules import patches

        for kind in KINDS:
            if patches.original(KEY, kind, "forward") is None:
                patches.patch(KEY, kind, "forward", self._around(kind.forward, kind is nn.MultiheadAttention))

    def _around(self, inner: Callable[..., Any], several: bool = False) -> Callable[..., Any]:
        """Return a forward that looks for a plan; several: of more arguments than one, whose passing on every layer would pay for."""

        def forward(module: nn.Module, input: Any) -> Any:  # torch's name for it
            layer = self.layers.get(module)
            return inner(module, input) if layer is None else self.call(layer, MethodType(inner, module), (input,), {})

        def forward_several(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            layer = self.layers.get(module)
            return inner(module, *args, **kwargs) if layer is None else self.call(layer, MethodType(inner, module), args, kwargs)

        return forward_several if several else forward


class DispatchedPatcher(Patcher):
    """A patcher that hands its layers to the dispatcher; only kinds that no hook reaches get a forward of their own."""

    def __init__(self, model: Mapping[str, nn.Module], family: str, dispatcher: Dispatcher) -> None:
        super().__init__(model, family)
        self.dispatcher = dispatcher
        self.installed: Mapping[nn.Module, PatchedLayer] = {}

    def install(self, layers: Mapping[nn.Module, PatchedLayer]) -> None:
        """Have exactly these layers called."""
        self.installed = layers
        reached = {module: layer for module, layer in layers.items() if reaches_hook(module)}
        others = {module: GuardedLayer(layer, self.dispatcher) for module, layer in layers.items() if module not in reached}
        super().install(others)  # type: ignore[arg-type]
        self.dispatcher.layers = reached

    def layer(self, module: nn.Module) -> PatchedLayer | None:
        """Return the changed form of a live module; None where nothing changes it."""
        return self.installed.get(module)


def reaches_hook(module: nn.Module) -> bool:
    """Tell whether a module's forward is the hooked one, or calls it: open_clip's LayerNorm does neither, ldm's GroupNorm32 does."""
    kind = next((kind for kind in KINDS if isinstance(module, kind)), None)
    if kind is None:
        return False
    forward: Any = type(module).forward
    return forward is kind.forward or "super" in getattr(getattr(forward, "__code__", None), "co_names", ())
