"""The ways to change the forward of a live layer: *functional* (y + s · Δy), and with an effective weight beside the base's, kept or not.

One class a kind of layer. Each holds the edits of the layer's parameters, is called in place of the layer's forward with that forward
as ``inner``, and never writes to a parameter.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ...algorithms import Convolution, LowRank, Stacked
from ..cost import Way, gain
from ..edit import Edit, in_order
from ..live.base_state import BaseState
from ..live.compiling import is_compiling, outside_the_compiler
from ..live.layer_access import COMPUTED_IN, LiveParameter, autocasts
from ..workspace import Workspace
from .calls import Add, Call, Run, adding, one_at_a_time, unchanged, with_bypass
from .effective import Effective, Shift

Prepared = tuple[Run, list[LiveParameter]]  # what to do, and the live parameters whose values it was made of
KINDS_KEPT = 32  # of inputs: a model that meets more sizes decides anew


class PatchedLayer:
    """What all kinds share: the edits by parameter, the choice between the ways, and those with an effective weight.

    A kind that has no form of its own for activations - norms and embeddings, whose parameters are vectors and tables - is merged always.
    """

    main = "weight"  # the parameter whose dtype is the layer's

    def __init__(self, module: nn.Module, edits: dict[str, list[Edit]], workspace: Workspace) -> None:
        self.module, self.workspace, self.access = module, workspace, workspace.access
        self.edits = {leaf: in_order(found) for leaf, found in edits.items()}
        self.effective: dict[str, Effective] = {}
        self.effective = {leaf: Effective(self.live(leaf), found, workspace, slot) for slot, (leaf, found) in enumerate(edits.items())}
        self.shifts = {leaf: Shift(self.live(leaf), found, workspace) for leaf, found in edits.items() if leaf.endswith("bias")}
        self._all = [edit for found in self.edits.values() for edit in found]
        self.varies = not all(isinstance(edit.strength, (int, float)) for edit in self._all)
        self.leaves = False  # whether the module is moved within a step, so that what is kept is of no use at the next one
        self._ways: dict[tuple[object, ...], Way] = {}
        self._calls: dict[tuple[object, ...], Call] = {}
        self._stack: tuple[list[LowRank], Stacked] | None = None

    def __call__(self, inner: Run, *args: Any, **kwargs: Any) -> Any:
        """Return the changed layer's output; how it is computed is decided once for inputs of a kind, while nothing changes."""
        if is_compiling():
            return outside_the_compiler(self, inner, *args, **kwargs)
        x: Tensor = args[0] if args else next(iter(kwargs.values()))
        kind = (x.shape, x.dtype, x.device, autocasts(x))
        call = self._calls.get(kind)
        if call is None or not call.holds(self.circumstances()):
            call = self._decide(kind, inner, args, kwargs)
        return call.run(inner, *args, **kwargs)

    def circumstances(self) -> tuple[object, ...]:
        """Return what beside the input and the base weights a decision rests on: the steps, where strengths follow them."""
        return (self.workspace.progress.step, self.workspace.progress.steps) if self.varies else ()

    def _decide(self, kind: tuple[object, ...], inner: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        with self.workspace.lock:
            known, now = self._calls.get(kind), self.circumstances()
            if known is not None and known.holds(now):
                return known  # by another thread
            if known is not None or len(self._calls) == KINDS_KEPT or any(other[1:] != kind[1:] for other in self._calls):
                self._calls.clear()  # what was prepared for another base, dtype or device is not kept
            self._calls[kind] = call = self._prepare(now, inner, args, kwargs)
            return call

    def _prepare(self, now: tuple[object, ...], inner: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        if not any(edit.now(self.workspace.progress) for edit in self._all):
            return Call(unchanged, None, now)
        way = self.way(*args, **kwargs)
        prepare = {"functional": self.prepare_bypass, "merged": self.prepare_merged, "recompute": self.prepare_recompute}[way]
        run, reads = prepare(inner, *args, **kwargs)
        memory_is_reused = way == "recompute" or (way == "merged" and self.varies)
        if memory_is_reused or not self.access.leaves_alone(self.module, inner):
            run = one_at_a_time(self.workspace.lock, run)
        return Call(run, BaseState(reads) if reads else None, now)

    def makes(self, edits: dict[str, list[Edit]]) -> bool:
        """Tell whether these are the edits of the layer's parameters."""
        if edits.keys() != self.edits.keys() or any(len(found) != len(self.edits[leaf]) for leaf, found in edits.items()):
            return False
        pairs = (pair for leaf, found in edits.items() for pair in zip(self.edits[leaf], in_order(found)))
        return all(mine.does(other) for mine, other in pairs)

    def adopt(self, other: PatchedLayer) -> None:
        """Take over what another changed form of the same layer has computed or has memory for."""
        for leaf, effective in self.effective.items():
            if leaf in other.effective:
                effective.adopt(other.effective[leaf])
        self.leaves = other.leaves

    def moved(self) -> None:
        """Drop what is kept of a base weight that is no longer there: after the module went to another device or dtype."""
        with self.workspace.lock:
            stale = [effective for effective in self.effective.values() if effective.is_stale]
            if stale:
                self.let_go()
            if not self.leaves and any(effective.is_of_this_step for effective in stale):
                self.leaves = True
                self._ways.clear()

    def let_go(self) -> list[Tensor]:
        """Return the effective parameters that are kept, and keep them no longer."""
        self._calls.clear()
        return [value for effective in self.effective.values() if (value := effective.let_go()) is not None]

    def way(self, *args: Any, **kwargs: Any) -> Way:
        """Return how the changes are applied to this input."""
        return "merged"

    def way_for(self, x: Tensor, positions: int) -> Way:
        """Return how the changes are applied to an input of so many positions."""
        shape, dtype = self.shape, self.effective_dtype("weight", x)
        kind = (positions, dtype, x.device)
        found = self._ways.get(kind)
        if found is None:
            size = prod(shape) * dtype.itemsize
            works = [edit.algorithm.cost(shape) for edit in self.edits.get("weight", ())]
            kept = "merged" in self._ways.values()  # for an input of another size
            if self.workspace.mode == "auto" and self.access.is_packed(self.module, self.main):
                found = "functional"  # who quantises a model has no room for its weights unpacked
            elif works:
                found = self.workspace.way(works, positions, size, dtype, x.device, not (self.varies or self.leaves), kept)
            else:  # a vector beside the bias's takes no room to speak of
                found = "functional" if self.varies or self.workspace.mode == "functional" else "merged"
            self._ways[kind] = found
        return found

    def gain(self, device: str) -> tuple[float, int] | None:
        """Return what keeping the effective weight on a kind of device gains a byte, and its bytes; None where none would be kept."""
        works = [edit.algorithm.cost(self.shape) for edit in self.edits.get("weight", ())]
        if self.varies or self.leaves or not works or self.access.is_packed(self.module, self.main):
            return None
        size = prod(self.shape) * self.live(self.main).dtype.itemsize
        return gain(works, size, device), size

    def prepare_bypass(self, inner: Run, *args: Any, **kwargs: Any) -> Prepared:
        """Prepare the output plus the changes."""
        return self.prepare_merged(inner, *args, **kwargs)

    def prepare_merged(self, inner: Run, *args: Any, **kwargs: Any) -> Prepared:
        """Prepare the layer's own forward with effective parameters that are kept."""
        now = [found for found in self.effective.values() if found.acts]
        values = self._values(True, *args, **kwargs)
        return self.access.caller(self.module, inner, values), [parameter for found in now for parameter in found.reads]

    def prepare_recompute(self, inner: Run, *args: Any, **kwargs: Any) -> Prepared:
        """Prepare the same with effective parameters that are made for each call, in shared memory."""

        def run(inner: Run, *args: Any, **kwargs: Any) -> Any:
            return self.access.call(self.module, inner, self._values(False, *args, **kwargs), args, kwargs)

        return run, []

    def _values(self, keep: bool, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        now = [(leaf, found) for leaf, found in self.effective.items() if found.acts]
        return {leaf: found(x.device, self.effective_dtype(leaf, x), keep or leaf.endswith("bias")) for leaf, found in now}

    def parameter(self, leaf: str, keep: bool = True) -> Tensor | None:
        """Return the effective parameter at this point of the sampling, in its own dtype; the layer's own where nothing changes it."""
        live, effective = self.live(leaf), self.effective.get(leaf)
        if effective is None or not effective.acts:
            return live.value()
        return effective(live.filled().device, live.dtype, keep or leaf.endswith("bias"))

    def live(self, leaf: str) -> LiveParameter:
        """Return one of the layer's parameters."""
        known = self.effective.get(leaf)
        return LiveParameter(self.module, leaf, self.access) if known is None else known.live

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return self.live(self.main).shape

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """Return what the layer computes in: its input's dtype, which hosts cast weights to; its weight's under autocast or for indices."""
        if x.is_floating_point() and not autocasts(x):
            return x.dtype
        return self.live(self.main).dtype

    def effective_dtype(self, leaf: str, x: Tensor) -> torch.dtype:
        """Return the wider of what a parameter is stored in and what is computed in: nothing is rounded that the layer does not round."""
        stored = self.access.stored(self.live(leaf).module, self.live(leaf).leaf)
        dtype = self.compute_dtype(x)
        return dtype if stored is None or stored.dtype not in COMPUTED_IN else torch.promote_types(stored.dtype, dtype)

    def prepare_adding(self, x: Tensor, column: tuple[int, ...], convolution: Convolution | None = None) -> tuple[Add, list[LiveParameter]]:
        """Prepare the function that adds the changes of the weight to an output; column: the bias's shape beside it."""
        edits = self.edits.get("weight", ())
        now = [(edit, strength) for edit in edits if (strength := edit.now(self.workspace.progress))]
        dtype, reads = self.compute_dtype(x), [parameter for edit, _ in now for parameter in edit.binds]
        bias = None
        if any(edit.algorithm.reads_output for edit, _ in now):
            live = self.live("bias")
            bias = live.value(x.device)
            bias, reads = None if bias is None else bias.detach().to(dtype).reshape(column), [*reads, live]
        acts = [edit.bypass(x.device, dtype, convolution) for edit, _ in now]
        return adding(now, acts, bias, -1 if convolution is None else 1, self._stacked), reads

    def _stacked(self, changes: list[LowRank]) -> Stacked:
        """Return low-rank changes as one, made when they are first used together."""
        if self._stack is None or len(self._stack[0]) != len(changes) or any(a is not b for a, b in zip(self._stack[0], changes)):
            self._stack = (changes, Stacked(changes))
        return self._stack[1]

    def prepare_shift(self, leaf: str, x: Tensor) -> tuple[Tensor | None, list[LiveParameter]]:
        """Prepare Σ s · Δbias as a vector; None where no edit changes the bias."""
        found = self.shifts.get(leaf)
        if found is None or not found.acts:
            return None, []
        return found(x.device, self.compute_dtype(x), True), found.reads


class PatchedParent(PatchedLayer):
    """A module that reads the parameters of the layers in it (as q_proj.weight) and never calls them: an attention pool."""

    def live(self, leaf: str) -> LiveParameter:
        """Return a parameter of one of the layers in it."""
        child, _, name = leaf.rpartition(".")
        return LiveParameter(self.module.get_submodule(child), name, self.access)

    def compute_dtype(self, x: Tensor) -> torch.dtype:
        """Return what its input is computed in."""
        return x.dtype

    def gain(self, device: str) -> tuple[float, int] | None:
        """Return that nothing is gained by keeping what is kept always."""
        return None


class PatchedLinear(PatchedLayer):
    """nn.Linear."""

    def way(self, *args: Any, **kwargs: Any) -> Way:
        """Return how the changes are applied to this input."""
        x = args[0] if args else kwargs["input"]
        return self.way_for(x, x.numel() // x.shape[-1])

    def prepare_bypass(self, inner: Run, *args: Any, **kwargs: Any) -> Prepared:
        """Prepare y + Σ s · (ΔW·x + Δbias)."""
        x = args[0] if args else kwargs["input"]
        add, reads = self.prepare_adding(x, (-1,))
        shift, shift_reads = self.prepare_shift("bias", x)
        return with_bypass(add, shift), [*reads, *shift_reads]


class PatchedConvolution(PatchedLayer):
    """nn.Conv1d, nn.Conv2d and nn.Conv3d."""

    def way(self, *args: Any, **kwargs: Any) -> Way:
        """Return how the changes are applied to this input."""
        x, m = args[0] if args else kwargs["input"], self.module
        found = self.way_for(x, x.numel() // x.shape[1 - len(self.shape)] // prod(m.stride))  # type: ignore[arg-type]
        own = "_conv_forward" in m.__dict__  # set by another program, such as tiling along one axis: only it knows how it walks
        return "recompute" if own and found == "functional" else found

    def geometry(self) -> Convolution:
        """Return how the layer walks over its input, as it is set now (the webui's tiling changes it between images)."""
        m: Any = self.module
        return Convolution(m.stride, m.padding, m.dilation, m.groups, m.padding_mode, tuple(m._reversed_padding_repeated_twice))

    def circumstances(self) -> tuple[object, ...]:
        """Return what a decision rests on: the geometry too."""
        m: Any = self.module
        return (*super().circumstances(), m.stride, m.padding, m.dilation, m.groups, m.padding_mode, m.__dict__.get("_conv_forward"))

    def prepare_bypass(self, inner: Run, *args: Any, **kwargs: Any) -> Prepared:
        """Prepare y + Σ s · (ΔW∗x + Δbias)."""
        x = args[0] if args else kwargs["input"]
        column = (-1, *(1,) * (len(self.shape) - 2))
        add, reads = self.prepare_adding(x, column, self.geometry())
        shift, shift_reads = self.prepare_shift("bias", x)
        run = with_bypass(add, None if shift is None else shift.reshape(column), batch=x.dim() == len(self.shape))
        return run, [*reads, *shift_reads]
