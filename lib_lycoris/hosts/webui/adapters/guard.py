"""A layer that fails computes as the base does, and is told about: an error in a forward would end the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ....patching import Patcher
from ....patching.layers.layer import PatchedLayer
from ....patching.live.layer_access import Inner, LayerAccess
from ....wording import counted


class Guard:
    """Calls changed layers, and keeps what went wrong in them."""

    def __init__(self) -> None:
        self.failed: set[PatchedLayer] = set()
        self.failures: dict[str, int] = {}  # sentence -> layers

    def install(self) -> None:
        """Make ready what all models of this webui share; hooks of the layers themselves are a patcher's."""

    def call(self, layer: PatchedLayer, inner: Inner, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the changed layer's output, the base's once it has failed."""
        if layer in self.failed:
            return inner(*args, **kwargs)
        try:
            return layer(inner, *args, **kwargs)
        except torch.cuda.OutOfMemoryError:
            raise  # the webui tells people what to do about it
        except Exception as error:  # noqa: BLE001 - told below the image
            self.failed.add(layer)
            self._note(layer.module, error)
        return inner(*args, **kwargs)

    def _note(self, module: nn.Module, error: Exception) -> None:
        text = f"a layer of the kind {type(module).__name__} could not be changed: {str(error).splitlines()[0] if str(error) else error!r}"
        self.failures[text] = self.failures.get(text, 0) + 1

    def take_failures(self) -> list[str]:
        """Return what went wrong in layers since the last call, one sentence each."""
        found = [text if count == 1 else f"{text} ({counted(count, 'layer')})" for text, count in self.failures.items()]
        self.failures = {}
        self.failed.clear()
        return found


class GuardedLayer:
    """A changed layer behind a guard, called as the layer itself."""

    def __init__(self, layer: PatchedLayer, guard: Guard) -> None:
        self.layer, self.guard = layer, guard

    def __call__(self, inner: Inner, *args: Any, **kwargs: Any) -> Any:
        """Return the changed output, or the base's."""
        return self.guard.call(self.layer, inner, args, kwargs)


class GuardedPatcher(Patcher):
    """A patcher that gives each layer a forward of its own, guarded: for webuis whose layers are not reached from one place."""

    def __init__(self, model: Mapping[str, nn.Module], family: str | None, access: LayerAccess, guard: Guard) -> None:
        super().__init__(model, family, access)
        self.guard = guard
        self.installed: Mapping[nn.Module, PatchedLayer] = {}

    def install(self, layers: Mapping[nn.Module, PatchedLayer]) -> None:
        """Have exactly these layers called."""
        self.installed = layers
        super().install({module: GuardedLayer(layer, self.guard) for module, layer in layers.items()})  # type: ignore[misc]

    def layer(self, module: nn.Module) -> PatchedLayer | None:
        """Return the changed form of a live module; None where nothing changes it."""
        return self.installed.get(module)
