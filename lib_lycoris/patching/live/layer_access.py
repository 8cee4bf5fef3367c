"""How layers hold their parameters: as torch's own do, or quantised; a host whose layers cast or patch them has a way of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...records import dataclass
from .forwards import OPERATIONS, exchanged, is_method_of, plain_forward, reads_children, stand_in
from .packed import packed

Inner = Callable[..., Any]
COMPUTED_IN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
KINDS: tuple[type[nn.Module], ...] = (
    nn.MultiheadAttention, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.GroupNorm, nn.Embedding,
)  # fmt: skip


def _before_torch_2_4(device: str) -> bool:
    return torch.is_autocast_cpu_enabled() if device == "cpu" else torch.is_autocast_enabled()


def _since_torch_2_4(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except RuntimeError:  # a kind of device that has no autocast
        return False


try:
    torch.is_autocast_enabled("cpu")
    _autocasts_on: Callable[[str], bool] = _since_torch_2_4  # whether autocast is on for a kind of device
except TypeError:
    _autocasts_on = _before_torch_2_4
_autocasts_anywhere: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)


def autocasts(x: Tensor) -> bool:
    """Tell whether autocast is on where a tensor lies."""
    return _autocasts_anywhere() and _autocasts_on(x.device.type)  # the device's name is made anew at each call, which costs the most


def main_leaf(module: nn.Module) -> str | None:
    """Return what a layer calls its main parameter: weight, or scale as Flux' own norms do; None for a module without one."""
    return next((leaf for leaf in ("weight", "scale") if leaf in module._parameters), None)


class LayerAccess:
    """Reads the parameters of a model's layers and calls a layer with others in their place."""

    def kind(self, module: nn.Module) -> type[nn.Module] | None:
        """Return which of torch's layers a module computes as; None for one that is none of them.

        A norm of somebody's own - RMSNorm, of which there are many - is one that has a vector as its weight or scale and calls no other;
        nn.Module stands for one that reads the parameters of the layers in it.
        """
        found = next((kind for kind in KINDS if isinstance(module, kind)), None)
        if found is None and reads_children(module):
            return nn.Module
        if found is None and not module._modules and (leaf := main_leaf(module)) and len(self.shape(module, leaf) or ()) == 1:
            return nn.LayerNorm
        return found

    def shape(self, module: nn.Module, leaf: str) -> tuple[int, ...] | None:
        """Return a parameter's shape, a quantised one's as it is computed with; None where the layer has no such parameter."""
        if found := packed(module, leaf):
            return found.shape
        parameter = self.stored(module, leaf)
        return None if parameter is None else tuple(parameter.shape)

    def stored(self, module: nn.Module, leaf: str) -> Tensor | None:
        """Return a parameter as it lies in memory."""
        table = module._parameters
        found: Tensor | None = table[leaf] if leaf in table else getattr(module, leaf, None)
        return found

    def is_packed(self, module: nn.Module, leaf: str) -> bool:
        """Tell whether a parameter lies in memory as other numbers than the layer computes with: quantised."""
        return packed(module, leaf) is not None

    def can_hold(self, module: nn.Module, leaf: str) -> bool:
        """Tell whether a layer can be called with a parameter of this name, which it may lack."""
        return leaf in module._parameters

    def value(self, module: nn.Module, leaf: str, device: torch.device | None = None) -> Tensor | None:
        """Return a parameter as the layer computes with it, on this device or its own; a dtype that is only stored may stay."""
        quantised = packed(module, leaf)
        found = self.stored(module, leaf) if quantised is None else quantised.numbers()
        return found if found is None or device is None else found.to(device)

    def made_of(self, module: nn.Module, leaf: str) -> tuple[tuple[Tensor, ...], tuple[object, ...]]:
        """Return the tensors, and what else, that a parameter's value follows from: while they are the same the value is too."""
        if quantised := packed(module, leaf):
            return quantised.parts, ()
        found = self.stored(module, leaf)
        return (() if found is None else (found,)), ()

    def call(self, module: nn.Module, inner: Inner, values: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the layer's own forward ``inner`` gives with these parameters in place of its own for that long."""
        if self.is_packed(module, "weight"):  # its own forward would unpack what is no longer packed
            return self._operate(module, values, *args, **kwargs)
        if is_method_of(inner, module):
            return inner.__func__(stand_in(module, values), *args, **kwargs)  # type: ignore[attr-defined]
        with exchanged(module, values):
            return inner(*args, **kwargs)

    def _operate(self, module: nn.Module, values: Mapping[str, Tensor], input: Tensor) -> Tensor:
        """Return what torch's layer of this kind computes with these parameters, and the layer's own numbers for the others."""
        weight, bias = (values[leaf] if leaf in values else self.value(module, leaf, input.device) for leaf in ("weight", "bias"))
        kind = self.kind(module)
        assert kind is not None and weight is not None
        return OPERATIONS[kind](module, input, weight.to(input), None if bias is None else bias.to(input))

    def caller(self, module: nn.Module, inner: Inner, values: Mapping[str, Tensor]) -> Inner:
        """Return a function (inner, *args, **kwargs) that does so with the same parameters each time."""
        known = self._exchanges_alone and not self.is_packed(module, "weight")
        plain = plain_forward(module, inner, values) if known else None
        return plain or (lambda inner, *args, **kwargs: self.call(module, inner, values, args, kwargs))

    def leaves_alone(self, module: nn.Module, inner: Inner) -> bool:
        """Tell whether such calls leave the module as it is, so that other threads may use it meanwhile."""
        return self._exchanges_alone and is_method_of(inner, module)

    @property
    def _exchanges_alone(self) -> bool:
        """Whether a call with other parameters is nothing but that: not so for a host with a way of its own."""
        return type(self).call is LayerAccess.call


@dataclass(frozen=True)
class LiveParameter:
    """A parameter of a live layer, which the layer need not have: a bias of its weight's rows then."""

    module: nn.Module
    leaf: str
    access: LayerAccess

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape, also where the layer lacks it."""
        found = self.access.shape(self.module, self.leaf)
        return self.access.shape(self.module, self._weight)[:1] if found is None else found  # type: ignore[index]

    @property
    def _weight(self) -> str:
        return "in_proj_weight" if self.leaf == "in_proj_bias" else main_leaf(self.module) or "weight"

    @property
    def dtype(self) -> torch.dtype:
        """What it is stored in, a missing one like its weight; float32 for a dtype that nothing is computed in."""
        found = self.access.stored(self.module, self.leaf)
        dtype = (self.access.stored(self.module, self._weight) if found is None else found).dtype  # type: ignore[union-attr]
        return dtype if dtype in COMPUTED_IN else torch.float32

    @property
    def is_plain(self) -> bool:
        """Whether the layer holds it, and computes with it as it is."""
        as_torch = type(self.access).made_of is LayerAccess.made_of and type(self.access).stored is LayerAccess.stored
        held = self.module._parameters.get(self.leaf) is not None
        return as_torch and held and not self.access.is_packed(self.module, self.leaf)

    def value(self, device: torch.device | None = None) -> Tensor | None:
        """Return it as the layer computes with it, in a dtype that can be computed in; None where the layer lacks it."""
        found = self.access.value(self.module, self.leaf, device)
        return found if found is None or found.dtype in COMPUTED_IN else found.float()

    def filled(self, device: torch.device | None = None) -> Tensor:
        """Return its value, zeros for one that the layer lacks."""
        found = self.value(device)
        if found is not None:
            return found
        weight: Tensor = self.access.stored(self.module, self._weight)  # type: ignore[assignment]
        return torch.zeros(self.shape, device=device or weight.device, dtype=self.dtype)

    def made_of(self) -> tuple[tuple[Tensor, ...], tuple[object, ...]]:
        """Return what its value follows from; a missing one follows its weight."""
        has = self.access.stored(self.module, self.leaf) is not None
        return self.access.made_of(self.module, self.leaf if has else self._weight)
