"""The moving average of the weights, which is saved in their place where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..algorithms.trained_network import TrainedNetwork


class Average:
    """An average that follows at once at the beginning: after n steps it keeps at most (1 + n) / (10 + n)."""

    def __init__(self, network: TrainedNetwork, decay: float) -> None:
        self.network, self.decay = network, decay
        self.weights = {name: weight.detach().clone() for name, weight in network.weights().items()}

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take the weights of one more step (from 1) in."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, weight in self.network.weights().items():
            self.weights[name].lerp_(weight, 1 - keep)

    @torch.no_grad()
    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Take up a kept average."""
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)

    @contextmanager
    def put_in(self) -> Iterator[None]:
        """Have the network compute with the average for a while."""
        kept = {name: weight.detach().clone() for name, weight in self.network.weights().items()}
        self._set(self.weights)
        try:
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in self.network.weights().items():
            weight.copy_(weights[name])
