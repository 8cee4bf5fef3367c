"""Activations on a live model: plan, put on, take off. The only place that changes a module, and only its forward."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch
from torch import nn

from .. import models
from ..errors import ModelMismatchError, naming
from ..models import BaseModel, LayerInfo, Piece
from .activation import Activation, SamplingPosition, usable
from .discard import discard, make_room
from .edit import BaseRows, Edit, joined, shape_of
from .hook import Hook
from .layers.kinds import patched
from .layers.layer import PatchedLayer
from .live.attention import unsupported
from .live.forwards import reads_children
from .live.layer_access import COMPUTED_IN, LayerAccess, LiveParameter, main_leaf
from .live.moving import unwatch, watch
from .report import NetworkReport, Report
from .workspace import Mode, Workspace

Plan = dict[nn.Module, dict[str, list[Edit]]]  # module -> parameter -> its changes


class Patcher:
    """Puts networks on the layers of a live model and takes them off again; no parameter is ever written to.

    The model may be one module or several by name: ``{"unet": ..., "text_encoder": ...}``; its family ("sd1", "sdxl", ...) is told from its
    layers when it is not given. Layers without a network keep their forward. ``access`` reads the layers where they are not plain torch.
    """

    def __init__(
        self, model: nn.Module | Mapping[str, nn.Module], family: str | None = None, access: LayerAccess | None = None
    ) -> None:  # fmt: skip
        self.modules = live_modules(model)
        self.workspace = Workspace(access=access or LayerAccess())
        layers = {name: info for name, module in self.modules.items() if (info := layer_info(module, self.workspace.access))}
        self.names = models.from_live(layers, family)
        self.active = False  # whether the networks of the last apply are on
        self._hooks: dict[nn.Module, Hook] = {}
        self._layers: Mapping[nn.Module, PatchedLayer] = {}  # of the last networks, also while a host has taken them off for a while
        self._edits: dict[tuple[object, ...], Edit] = {}

    @property
    def base(self) -> BaseModel:
        """The canonical names and shapes of the live model's layers."""
        return self.names.base

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in: for weights that are only stored, in fp8, half precision."""
        weights = (module._parameters.get("weight") for module in self.modules.values())
        return next((w.dtype for w in weights if w is not None and w.dtype in COMPUTED_IN), torch.float16)

    def apply(self, activations: Sequence[Activation], mode: Mode = "auto") -> Report:
        """Put exactly these networks on, in place of those before.

        Raises ModelMismatchError before anything is changed when a network does not fit the live model.
        """
        if mode not in get_args(Mode):
            raise ModelMismatchError(f"there is no way to apply networks called {mode!r}; there are {', '.join(get_args(Mode))}")
        report = Report()
        plan: Plan = {}
        edits: dict[tuple[object, ...], Edit] = {}
        for index, activation in enumerate(activations):
            with naming(activation.network.path):
                self._plan(activation, index, plan, edits, report)
        self._refuse_a_second_patcher(plan)
        if not self._is_as_before(plan, mode):
            self._replace(plan, edits, mode, sum(activation.network.bytes for activation in activations))
        self.resume()
        return report

    def _is_as_before(self, plan: Plan, mode: Mode) -> bool:
        """Tell whether the layers of the last networks do what is planned, as for the next image of the same prompt: they are ready."""
        same = bool(plan) and plan.keys() == self._layers.keys() and self.workspace.is_begun(mode)
        return same and all(layer.makes(plan[module]) for module, layer in self._layers.items())

    def _replace(self, plan: Plan, edits: dict[tuple[object, ...], Edit], mode: Mode, network_bytes: int) -> None:
        """Make the layers that are planned, in place of those before."""
        layers = {module: self._layer(module, found) for module, found in plan.items()}
        for module, layer in layers.items():
            if (before := self._layers.get(module)) is not None:
                layer.adopt(before)
        self.workspace.begin(mode, network_bytes, partial(_gains, layers))
        if layers:
            make_room()
        else:
            self.workspace.free()
        discard(self._layers.values())
        self._keep(layers, edits)

    def restore(self) -> None:
        """Take every network off: the model computes as if there had never been one."""
        self.pause()
        discard(self._layers.values())
        self._keep({}, {})
        self.workspace.free()

    def pause(self) -> None:
        """Take every network off for a while: what was prepared for them stays, for :meth:`resume` or the next :meth:`apply`."""
        self.active = False
        self.install({})

    def resume(self) -> None:
        """Put on again what a pause took off."""
        self.active = True
        self.install(self._layers)

    def step(self, step: int, steps: int) -> None:
        """Say where the sampling is, for strengths that vary: a 0-based step of so many."""
        self.progress.step, self.progress.steps = step, steps

    @property
    def progress(self) -> SamplingPosition:
        """Where the sampling is."""
        return self.workspace.progress

    def layer(self, module: nn.Module) -> PatchedLayer | None:
        """Return the changed form of a live module; None where nothing changes it."""
        hook = self._hooks.get(module)
        return None if hook is None else hook.layer

    def _plan(
        self,
        activation: Activation,
        index: int,
        plan: Plan,
        edits: dict[tuple[object, ...], Edit],
        report: Report,
    ) -> None:
        network, cut = activation.network, False
        places = {name: self._places(name) for name in network.patches}
        patches, unmatched = network.usable(lambda name: self._unchangeable(places[name]))
        for name, algorithm in patches.items():
            strength = usable(activation.strength(name), network.name)
            if isinstance(strength, (int, float)) and strength == 0:
                continue
            if activation.ranks:
                shorter = algorithm.truncated(activation.ranks)
                cut, algorithm = cut or shorter is not algorithm, shorter
            told = float(strength) if isinstance(strength, (int, float)) else strength  # 1 and 1.0 have one place in the sum
            order = (network.digest, name, str(told), str(activation.ranks or 0))
            for number, (module, leaf, edit) in enumerate(self._edits_of(network.name, name, algorithm, strength, places[name], order)):
                key = (network.digest, name, activation.ranks, number, index)
                if (before := self._edits.get(key)) is not None and before.algorithm is edit.algorithm and before.pieces == edit.pieces:
                    edit.adopt(before)
                edits[key] = edit
                plan.setdefault(module, {}).setdefault(leaf, []).append(edit)
        if network.patches and not patches:
            why = ": ".join(unmatched[0])
            raise ModelMismatchError(f"{network.name} fits no layer of the running model ({self.base.label}): {why}")
        if activation.ranks and not cut:
            report.notes.append(f"{network.name}: dyn={activation.ranks} changes nothing, none of its modules can be cut or has more ranks")
        left = (*network.skipped, *unmatched)
        report.networks.append(NetworkReport(network.name, len(patches), models.count_layers(patches), left, network.covered(patches)))

    def _places(self, name: str) -> tuple[Piece, ...]:
        """Return where a parameter is in the live layers, or where a bias that is missing would be."""
        pieces = self.names.pieces(name) or self._missing_bias(name)
        return tuple(replace(piece, leaf=self._leaf(piece)) for piece in pieces)

    def _missing_bias(self, name: str) -> tuple[Piece, ...]:
        """Return where the bias of a layer without one would be: with its weight."""
        module, role, part = models.split_parameter(name)
        if role != "bias":
            return ()
        weight = models.with_part(models.parameter(module, "weight"), part)
        names = {"weight": "bias", "scale": "bias", "in_proj_weight": "in_proj_bias"}  # a bare parameter has none
        return tuple(replace(piece, leaf=names[piece.leaf]) for piece in self.names.pieces(weight) if piece.leaf in names)

    def _weights(self, biases: Sequence[Piece]) -> list[BaseRows]:
        """Return the rows of the weights that stand beside pieces of a bias; of pieces of a weight, these themselves."""
        leaves = [(piece, piece.leaf.replace("bias", "weight")) for piece in biases]
        access = self.workspace.access
        return [BaseRows(LiveParameter(self.modules[p.module], leaf, access), p.live_rows) for p, leaf in leaves]

    def _edits_of(
        self,
        network: str,
        name: str,
        algorithm: Any,
        strength: Any,
        pieces: Sequence[Piece],
        order: tuple[str, ...],
    ) -> Iterable[tuple[nn.Module, str, Edit]]:
        ordered = sorted(pieces, key=lambda piece: piece.rows.start)
        access = self.workspace.access
        sources = tuple(BaseRows(LiveParameter(self.modules[p.module], p.leaf, access), p.live_rows) for p in ordered)
        algorithm = algorithm.beside(partial(joined, self._weights(ordered)))
        if problem := algorithm.check_shape(shape_of(sources)):
            raise ModelMismatchError(f"{network} does not fit the running model ({self.base.label}): {name}: {problem}")
        for module, leaf in dict.fromkeys((piece.module, piece.leaf) for piece in ordered):
            mine = tuple((piece.live_rows, piece.rows) for piece in ordered if (piece.module, piece.leaf) == (module, leaf))
            owner, key = self._owner(module, leaf)
            whole = len(sources) == 1 and mine[0][0] == slice(0, sources[0].parameter.shape[0])
            yield owner, key, Edit(algorithm, strength, sources, mine, order, whole)

    def _owner(self, module: str, leaf: str) -> tuple[nn.Module, str]:
        """Return the module whose forward reads a parameter: an attention reads those of its out_proj itself."""
        parent, _, child = module.rpartition(".")
        if parent in self.modules and reads_children(self.modules[parent]):
            return self.modules[parent], f"{child}.{leaf}"
        return self.modules[module], leaf

    def _layer(self, module: nn.Module, edits: dict[str, list[Edit]]) -> PatchedLayer:
        layer = patched(module, edits, self.workspace)
        assert layer is not None  # what cannot be changed was left out of the plan
        return layer

    def _leaf(self, piece: Piece) -> str:
        """Return what the live layer calls a parameter: Flux' norms are ``scale`` in one program and ``weight`` in another."""
        known = main_leaf(self.modules[piece.module])
        return known if known and piece.leaf in ("weight", "scale") else piece.leaf

    def _unchangeable(self, pieces: Sequence[Piece]) -> str | None:
        """Say why one of the live layers that hold a parameter cannot be changed, or that none does."""
        if not pieces:
            return f"the running model ({self.base.label}) has no such layer"
        for module, leaf in (self._owner(piece.module, piece.leaf) for piece in pieces):
            kind = type(module).__name__
            if self.workspace.access.kind(module) is None:
                return f"a layer of the kind {kind} cannot be changed"
            if isinstance(module, nn.MultiheadAttention) and (problem := unsupported(module)):
                return f"a layer of the kind {kind} cannot be changed: {problem}"
            if "." not in leaf and not self.workspace.access.can_hold(module, leaf):
                return f"a layer of the kind {kind} has no {leaf} and cannot be given one"
        return None

    def _keep(self, layers: Mapping[nn.Module, PatchedLayer], edits: dict[tuple[object, ...], Edit]) -> None:
        """Remember these layers in place of those before, and have them told when their modules are moved."""
        for module in self._layers.keys() - layers.keys():
            unwatch(module)
        for module, layer in layers.items():
            watch(module, layer.moved)
        self._layers, self._edits = layers, edits

    def _refuse_a_second_patcher(self, layers: Iterable[nn.Module]) -> None:
        """Raise where another Patcher's networks are on: deltas of both could not be computed from the same base weight."""
        for module in layers:
            hook = module.__dict__.get("forward")
            if isinstance(hook, Hook) and hook.layer is not None and self._hooks.get(module) is not hook:
                raise ModelMismatchError("networks are on this model already; take them off first, or give all networks in one call")

    def install(self, layers: Mapping[nn.Module, PatchedLayer]) -> None:
        """Have exactly these layers called in place of their modules' forwards; a host with hooks of its own does it its way."""
        for module, hook in list(self._hooks.items()):
            if module not in layers:
                hook.layer = None
                if module.__dict__.get("forward") is hook:
                    del module.__dict__["forward"]
                    if hook.own is not None:
                        module.__dict__["forward"] = hook.own
                    del self._hooks[module]
        for module, layer in layers.items():
            if (known := self._hooks.get(module)) is not None:
                known.layer = layer
            else:
                self._hooks[module] = hook = Hook(module, layer)
                module.__dict__["forward"] = hook


def _gains(layers: Mapping[nn.Module, PatchedLayer], device: str) -> list[tuple[float, int]]:
    """Return what a kind of device's memory could be used for."""
    return [gained for layer in layers.values() if (gained := layer.gain(device))]


def live_modules(model: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return every module of a model, or of several by name, by its dotted name."""
    if isinstance(model, nn.Module):
        return dict(model.named_modules())
    return {f"{prefix}.{name}" if name else prefix: m for prefix, part in model.items() for name, m in part.named_modules()}


def layer_info(module: nn.Module, access: LayerAccess) -> LayerInfo | None:
    """Return what names are decided by; None for a module that holds no weight of its own."""
    if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
        return LayerInfo("MultiheadAttention", tuple(module.in_proj_weight.shape), module.in_proj_bias is not None)
    leaf = main_leaf(module)
    if leaf is None or (shape := access.shape(module, leaf)) is None:
        return None
    kind = access.kind(module) or type(module)
    return LayerInfo(kind.__name__, shape, module._parameters.get("bias") is not None)
