"""A network file to begin with: another training's result, or an extraction; its tensors become the modules' own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import ToolError
from ...models import BaseModel, split_parameter
from ...networks import load

if TYPE_CHECKING:
    from .trained_network import TrainedModule, TrainedNetwork


class Initial:
    """The file, read for the model that is trained on."""

    def __init__(self, path: Path, base: BaseModel, take_dims: bool) -> None:
        self.network = load(path, base)
        self.take_dims = take_dims
        self.stored: dict[str, dict[str, Tensor]] = {}  # canonical module -> suffix -> tensor
        for name, algorithm in self.network.patches.items():
            target, leaf, part = split_parameter(name)
            key = f"{target}[{part}]" if part else target
            self.stored.setdefault(key, {}).update(algorithm.to_state_dict() if leaf != "bias" else {})

    def dims(self, target: str) -> tuple[int, float] | None:
        """Return dim and alpha that the file has for a layer; None where the settings say them."""
        tensors = self.stored.get(target, {})
        if not self.take_dims or "alpha" not in tensors:
            return None
        factor = next(
            (t for suffix in ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "q_layer.weight") if (t := tensors.get(suffix)) is not None),
            None,
        )
        return None if factor is None else (int(factor.shape[0]), float(tensors["alpha"]))

    def fill(self, network: TrainedNetwork) -> None:
        """Give the modules the file's tensors. Raises ToolError where they are of another kind or size, or the file has more."""
        layers = {one.target: one for one in network.entries}
        foreign = [target for target in self.stored if target not in layers]
        if foreign:
            raise ToolError(
                f"{self.network.path.name} changes {foreign[0]} and {len(foreign) - 1} more that are not trained; choose its preset"
            )
        for target, tensors in self.stored.items():
            self._fill_one(layers[target], tensors)

    @torch.no_grad()
    def _fill_one(self, one: TrainedModule, tensors: dict[str, Tensor]) -> None:
        own = one.module.state_dict()
        live = {**dict(one.module.named_parameters()), **dict(one.module.named_buffers())}  # a state may be made of them
        file = self.network.path.name
        if set(own) - {"alpha"} != set(tensors) - {"alpha"}:
            raise ToolError(
                f"{file} has {', '.join(sorted(tensors))} for {one.name}, but {', '.join(sorted(own))} are trained; give its algo"
            )
        for suffix, tensor in tensors.items():
            if suffix not in own:
                continue
            if own[suffix].shape != tensor.shape:
                hint = "--dim_from_weights takes the file's"
                raise ToolError(f"{file}: {one.name}.{suffix} is {tuple(tensor.shape)}, but {tuple(own[suffix].shape)} is trained; {hint}")
            if suffix == "alpha" and float(own[suffix]) != float(tensor):
                raise ToolError(
                    f"{file}: alpha of {one.name} is {float(tensor):g}, but {float(own[suffix]):g} is trained; --dim_from_weights takes it"
                )
            if suffix in live:
                live[suffix].copy_(tensor)
        if "scalar" in live and "scalar" not in tensors:
            live["scalar"].fill_(1.0)  # the file's factor has it in it
        now = one.module.state_dict()
        if any(
            not torch.equal(now[suffix].cpu(), tensor.to(now[suffix].dtype).cpu()) for suffix, tensor in tensors.items() if suffix in now
        ):
            raise ToolError(f"{type(one.module).__name__} cannot begin with a file: its tensors are not what it trains")
