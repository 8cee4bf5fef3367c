"""The noise of flow models: a straight line from image to noise, and a model that answers with its direction."""

from __future__ import annotations

from math import exp
from random import Random
from typing import Any

import torch
from torch import Tensor

from .base import Process


class Flow(Process):
    """Rectified flow: at step 1000 * sigma the model sees (1 - sigma) * latents + sigma * noise."""

    prediction = "flow"

    def __init__(self, scheduler_config: Any, settings: Any) -> None:
        self.config = scheduler_config
        self.sampling = settings.timestep_sampling or ("flux_shift" if self.config.get("use_dynamic_shifting") else "shift")
        self.shift = float(self.config.get("shift") or 1.0) if settings.discrete_flow_shift is None else settings.discrete_flow_shift
        self.scale = settings.sigmoid_scale

    def draw(self, choose: Random, low: int, high: int, shape: tuple[int, ...]) -> float:
        """Return a step from low to high; what falls outside is drawn again."""
        while True:
            step = self.steps * self._sigma(choose, shape)
            if low <= step <= high:
                return step

    def _sigma(self, choose: Random, shape: tuple[int, ...]) -> float:
        if self.sampling == "uniform":
            return choose.random()
        if self.sampling == "sigma":  # the scheduler's own steps, each as often
            return _shifted(choose.randint(1, self.steps) / self.steps, self.shift)
        sigma = 1 / (1 + exp(-self.scale * choose.gauss(0.0, 1.0)))
        if self.sampling == "shift":
            return _shifted(sigma, self.shift)
        return _shifted(sigma, self.size_shift(shape)) if self.sampling == "flux_shift" else sigma

    def size_shift(self, shape: tuple[int, ...]) -> float:
        """Return how far the steps of latents (..., h, w) lean towards the noise: larger images need more of it."""
        value = self.config.get
        few, many = value("base_image_seq_len") or 256, value("max_image_seq_len") or 4096
        least, most = value("base_shift") or 0.5, value("max_shift") or 1.15
        tokens = (shape[-2] // 2) * (shape[-1] // 2)
        return exp(least + (tokens - few) * (most - least) / (many - few))

    def noisy(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Return (1 - sigma) * latents + sigma * noise."""
        sigma = self._sigmas(steps, latents)
        return (1 - sigma) * latents + sigma * noise

    def wanted(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Return noise - latents, at every step."""
        return noise - latents

    def snr(self, steps: Tensor) -> Tensor:
        """Return ((1 - sigma) / sigma) squared."""
        sigma = (steps.float() / self.steps).clamp(min=1e-6)
        return ((1 - sigma) / sigma).square()

    def _sigmas(self, steps: Tensor, like: Tensor) -> Tensor:
        return (steps.to(torch.float32) / self.steps).to(like).view(-1, *[1] * (like.ndim - 1))


def _shifted(sigma: float, shift: float) -> float:
    """Return sigma leaning towards 1, the noise, by a factor of its odds."""
    return shift * sigma / (1 + (shift - 1) * sigma)
