"""The two loaders behind one face: ours, in one of its ways, and the host's method."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Protocol

from torch import nn

from lib_lycoris import Activation, Patcher
from lib_lycoris.hosts.library.cache import KEPT_MIB, NetworkCache
from lib_lycoris.models import BaseModel, parameter
from lib_lycoris.patching import Mode, Strength
from lib_lycoris.patching.discard import make_room

from . import loader_host
from .loader_models import Model

STEPS = 20  # of an image


class Side(Protocol):
    """A loader on a model of its own."""

    model: Model

    def use(self, path: Path, strength: float) -> None:
        """Have this network alone at this strength."""
        ...

    def off(self) -> None:
        """Have no network."""
        ...

    def reset(self) -> None:
        """Be as after the program's start."""
        ...


class Ours:
    """Our loader as a host drives it, on layers of its own over a model's weights."""

    def __init__(self, model: Model, way: Mode, kept_mib: int = KEPT_MIB) -> None:
        self.model, self.way, self.kept_mib = model.twin(), way, kept_mib
        self.patcher: Patcher | None = None
        self.loaded = NetworkCache()

    def use(self, path: Path, strength: Strength) -> None:
        """Load the file unless it is loaded, and apply it; the first time the model's names are found out as well."""
        if self.patcher is None:
            self.patcher = Patcher(self.model.parts)
            self.patcher.step(0, STEPS)
        network, _ = self.loaded.get(path, self.patcher.base, self.model.kind, self.patcher.dtype)
        report = self.patcher.apply([Activation(network, lambda name: strength)], self.way)
        assert not report.problems, report.problems
        self.loaded.end_run(self.kept_mib)

    @staticmethod
    def names(model: Model) -> BaseModel:
        """Return the names of a model's layers."""
        return Patcher(model.parts).base

    def off(self) -> None:
        """Take the network off; it stays loaded if there is room for it."""
        if self.patcher is not None:
            self.patcher.restore()
        self.loaded.end_run(self.kept_mib)

    def reset(self) -> None:
        """Forget all that was loaded and prepared."""
        self.off()
        self.patcher, self.loaded = None, NetworkCache()
        make_room()  # else it would go beside what is measured next
        gc.collect()


class Hosts:
    """The host's method, which writes to the weights: on a copy of the model, or on the model where nobody else needs it."""

    def __init__(self, model: Model, copied: bool = True) -> None:
        self.model = model.copied() if copied else model
        self.method = loader_host.of_model(self.model.parts, kohya_names(self.model))

    def use(self, path: Path, strength: float) -> None:
        """Have this network alone at this strength."""
        self.method.want({path: strength})

    def off(self) -> None:
        """Have no network; the copies of the weights stay."""
        self.method.want({})

    def reset(self) -> None:
        """Restore the weights and drop the copies."""
        self.method.forget()
        gc.collect()


def kohya_names(model: Model) -> dict[str, nn.Module]:
    """Return the layers by the names that files use; the host makes this table when it loads a model."""
    patcher = Patcher(model.parts)
    found = {}
    for module in patcher.base.layers:
        name, pieces = patcher.base.name_in("kohya", module), patcher.names.pieces(parameter(module, "weight"))
        if name and pieces:
            found[name] = patcher.modules[pieces[0].module]
    return found
