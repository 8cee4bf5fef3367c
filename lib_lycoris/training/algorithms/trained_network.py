"""The network while it is trained: lycoris-lora's modules on live layers, their weights under the names of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...records import dataclass

RANDOM = "get_random_rank_weight"  # what DyLoRA's forward asks for


@dataclass(frozen=True)
class TrainedModule:
    """One module of the network."""

    name: str  # in the file
    component: str  # of the pipeline: unet, text_encoder, text_encoder_2
    path: str  # of its layer inside the component
    target: str  # the layer's canonical name
    module: Any  # lycoris-lora's


class TrainedNetwork(nn.Module):
    """All modules; the base model computes with them from the moment on that it is made."""

    def __init__(self, modules: list[TrainedModule]) -> None:
        super().__init__()
        self.entries = modules
        self.layers = nn.ModuleDict({one.name: one.module for one in modules})
        for one in modules:
            one.module.apply_to()

    def weights(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name."""
        return {name: parameter for name, parameter in self.layers.named_parameters() if parameter.requires_grad}

    def whole_state(self) -> dict[str, Tensor]:
        """Return everything that the modules hold, what a file leaves out too."""
        return {**dict(self.layers.named_parameters()), **dict(self.layers.named_buffers())}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up a whole state."""
        for name, tensor in self.whole_state().items():
            tensor.copy_(state[name])

    def train(self, mode: bool = True) -> TrainedNetwork:
        """Switch between training and use: used, DyLoRA takes all its ranks, not a random number of them."""
        for one in self.entries:
            if hasattr(type(one.module), RANDOM):
                one.module.__dict__.pop(RANDOM, None)
                if not mode:
                    whole = (one.module.block_count - 1) * one.module.block_size
                    one.module.__dict__[RANDOM] = partial(one.module.get_weight, whole)
        return super().train(mode)

    def tensors(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the file's tensors."""
        found: dict[str, Tensor] = {}
        for one in self.entries:
            for suffix, tensor in one.module.state_dict().items():
                plain = tensor.detach().to("cpu")
                if suffix == "alpha" and hasattr(type(one.module), RANDOM):
                    plain = plain * one.module.block_size  # it trains with alpha / blocks, and every loader divides by the rank
                found[f"{one.name}.{suffix}"] = _stored(plain, dtype).clone()
        return found

    @contextmanager
    def rounded(self, dtype: torch.dtype) -> Iterator[None]:
        """Compute for a while as a file in this dtype will: its weights are rounded, nothing is dropped at random."""
        kept = {name: tensor.detach().clone() for name, tensor in self.weights().items()}
        training = self.training
        self.eval()
        with torch.no_grad():
            for tensor in self.weights().values():
                tensor.copy_(tensor.to(dtype).to(tensor.dtype))
        try:
            yield
        finally:
            self.train(training)
            with torch.no_grad():
                for name, tensor in self.weights().items():
                    tensor.copy_(kept[name])

    @contextmanager
    def off(self) -> Iterator[None]:
        """Take the modules off for a while: the base model computes as if there were none."""
        for one in self.entries:
            one.module.restore()
            _own_forward(one.module.org_module[0])
        try:
            yield
        finally:
            for one in self.entries:
                one.module.apply_to()


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in the file's dtype; a single number that this dtype does not hold stays what it is, as LoKr's alpha of 100000."""
    narrow = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return tensor if tensor.dim() == 0 and narrow.to(tensor.dtype) != tensor else narrow


def _own_forward(layer: nn.Module) -> None:
    """Remove the forward that lycoris-lora leaves on a layer, where it is the layer's own: other programs would take it for a hook."""
    kept = layer.__dict__.get("forward")
    if getattr(kept, "__func__", None) is type(layer).forward:
        del layer.__dict__["forward"]
