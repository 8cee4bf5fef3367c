"""What the host does, written from a description of its behaviour: the other side of the measurement.

At the first use every weight of every layer that it watches is copied to the CPU's memory and stays there. A network's file is read
whole, its keys are mapped to layers, and a module is built for each. A change of anything marks every layer; at a layer's next forward its
weight is restored from the copy, every network's change of it is rebuilt as a dense matrix, and the sum is written into the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WATCHED = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
CPU = torch.device("cpu")


@dataclass(eq=False)
class Part:
    """What a network holds for one layer."""

    tensors: dict[str, Tensor]
    modules: dict[str, nn.Module] = field(default_factory=dict)  # of LoRA: small layers, as the host builds them
    scale: float = 1.0

    def on(self, weight: Tensor, name: str) -> Tensor:
        """Return a tensor where the weight is."""
        return self.tensors[name].to(weight.device)


@dataclass(eq=False)
class Loaded:
    """A network in memory."""

    path: Path
    parts: dict[str, Part]


def lora_delta(part: Part, weight: Tensor) -> Tensor:
    """Return up · down as a dense matrix of the weight's shape."""
    up, down = (part.modules[name].weight.to(weight.device) for name in ("lora_up", "lora_down"))  # type: ignore[operator]
    return (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)


def loha_delta(part: Part, weight: Tensor) -> Tensor:
    """Return the product, element by element, of two dense matrices."""
    first, second = (part.on(weight, f"hada_w{i}_a") @ part.on(weight, f"hada_w{i}_b") for i in (1, 2))
    return (first * second).reshape(weight.shape)


def lokr_delta(part: Part, weight: Tensor) -> Tensor:
    """Return the Kronecker product as a dense matrix."""
    w1 = part.on(weight, "lokr_w1")
    w2 = part.on(weight, "lokr_w2") if "lokr_w2" in part.tensors else part.on(weight, "lokr_w2_a") @ part.on(weight, "lokr_w2_b")
    w2 = w2.reshape(weight.shape[0] // w1.shape[0], weight.shape[1] // w1.shape[1], *weight.shape[2:])
    return torch.kron(w1.reshape(*w1.shape, *(1,) * (weight.dim() - 2)), w2).reshape(weight.shape)


def oft_delta(part: Part, weight: Tensor) -> Tensor:
    """Return R·W - W, R the rotations of blocks of output rows."""
    blocks = part.on(weight, "oft_blocks").float()
    skew, eye = blocks - blocks.transpose(1, 2), torch.eye(blocks.shape[-1], device=weight.device)
    turns = torch.matmul(eye + skew, (eye - skew).inverse()).to(weight.dtype)
    rows = weight.reshape(len(blocks), blocks.shape[1], -1)
    return torch.einsum("k n m, k n p -> k m p", turns, rows).reshape(weight.shape) - weight


DELTAS: dict[str, Callable[[Part, Tensor], Tensor]] = {
    "lora_up.weight": lora_delta, "hada_w1_a": loha_delta, "lokr_w1": lokr_delta, "oft_blocks": oft_delta,
}  # fmt: skip


class HostMethod:
    """Applies networks to a model the host's way: ``want`` says which, the layers follow when they are called."""

    def __init__(self, modules: Mapping[str, nn.Module], watched: Mapping[str, nn.Module]) -> None:
        """Take the layers by the names that files use, and all layers that are watched; the compute dtype is the weights'."""
        self.modules, self.wanted = dict(modules), ()  # type: tuple[dict[str, nn.Module], tuple[tuple[str, float], ...]]
        self.names = {module: name for name, module in modules.items()}
        self.loaded: dict[str, Loaded] = {}
        self.backups: dict[nn.Module, tuple[Tensor, Tensor | None]] = {}
        self.current: dict[nn.Module, tuple[tuple[str, float], ...]] = {}
        for module in watched.values():
            module.register_forward_pre_hook(self._before)

    def want(self, networks: Mapping[Path, float]) -> None:
        """Say which networks are wanted at which strengths; a file stays loaded while it is wanted."""
        self.loaded = {str(path): self.loaded.get(str(path)) or self.load(path) for path in networks}
        self.wanted = tuple((str(path), strength) for path, strength in networks.items())

    def load(self, path: Path) -> Loaded:
        """Read a whole file and build a module for each layer that it names."""
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in load_file(path).items():
            layer, _, name = key.partition(".")
            if layer in self.modules:
                groups.setdefault(layer, {})[name] = tensor
        return Loaded(path, {layer: self._part(self.modules[layer], tensors) for layer, tensors in groups.items()})

    def _part(self, module: nn.Module, tensors: dict[str, Tensor]) -> Part:
        part = Part(tensors)
        if "lora_up.weight" in tensors:
            up, down = tensors["lora_up.weight"], tensors["lora_down.weight"]
            part.scale = float(tensors["alpha"]) / len(down)
            part.modules = {"lora_up": _small(module, up), "lora_down": _small(module, down)}
        elif "hada_w1_b" in tensors:
            part.scale = float(tensors["alpha"]) / len(tensors["hada_w1_b"])
        elif "lokr_w2_b" in tensors:
            part.scale = float(tensors["alpha"]) / len(tensors["lokr_w2_b"])
        return part

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.follow(module)

    @torch.no_grad()
    def follow(self, module: Any) -> None:
        """Bring one layer to what is wanted."""
        if self.current.get(module, ()) == self.wanted:
            return
        if module not in self.backups:
            bias = None if module.bias is None else module.bias.to(CPU, copy=True)
            self.backups[module] = module.weight.to(CPU, copy=True), bias
        weight, bias = self.backups[module]
        module.weight.copy_(weight)
        if bias is not None:
            module.bias.copy_(bias)
        for path, strength in self.wanted:
            part = self.loaded[path].parts.get(self.names.get(module, ""))
            if part is not None:
                dense = next(delta for name, delta in DELTAS.items() if name in part.tensors)(part, module.weight)
                delta = dense * part.scale * strength  # a pass over the dense matrix each
                module.weight.copy_((module.weight.to(delta.dtype) + delta).to(module.weight.dtype))
        self.current[module] = self.wanted

    def forget(self) -> None:
        """Begin anew, as after a start of the host: the weights are restored and the copies are dropped."""
        self.want({})
        for module in list(self.backups):
            self.follow(module)
        self.backups, self.current = {}, {}

    @property
    def copied(self) -> int:
        """The bytes that the copies hold."""
        return sum(t.numel() * t.element_size() for pair in self.backups.values() for t in pair if t is not None)


def _small(module: nn.Module, weight: Tensor) -> nn.Module:
    """Build the small layer that a LoRA's factor is, in the layer's dtype, and put the factor in."""
    dtype = module.weight.dtype
    if weight.dim() == 2:
        small: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    else:
        small = nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), bias=False)
    with torch.no_grad():
        small.weight.copy_(weight)  # type: ignore[operator]
    return small.to(dtype)


def of_model(parts: Mapping[str, nn.Module], names: Mapping[str, nn.Module]) -> HostMethod:
    """Put the host's method on a model; names: what files call its layers."""
    watched = {f"{p}.{name}": m for p, part in parts.items() for name, m in part.named_modules() if isinstance(m, WATCHED)}
    return HostMethod(names, watched)
