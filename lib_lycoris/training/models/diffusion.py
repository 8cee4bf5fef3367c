"""The noise of Stable Diffusion: 1000 steps of growing noise, and a model that answers with the noise or the velocity."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
from torch import Tensor

from .base import Process


class Diffusion(Process):
    """DDPM's process, with diffusers' own formulas."""

    def __init__(self, scheduler_config: Any, zero_terminal_snr: bool, velocity: bool) -> None:
        from diffusers import DDPMScheduler

        changes: dict[str, Any] = {"rescale_betas_zero_snr": True} if zero_terminal_snr else {}
        if velocity:
            changes["prediction_type"] = "v_prediction"
        self.scheduler = DDPMScheduler.from_config(scheduler_config, **changes)
        self.steps = self.scheduler.config.num_train_timesteps

    @property
    def prediction(self) -> str:
        """What the model answers with."""
        return str(self.scheduler.config.prediction_type)

    def draw(self, choose: Random, low: int, high: int, shape: tuple[int, ...]) -> int:
        """Return one of the steps, each as often."""
        return choose.randrange(low, high)

    def noisy(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Return sqrt(a) * latents + sqrt(1 - a) * noise."""
        noisy: Tensor = self.scheduler.add_noise(latents, noise, steps)
        return noisy

    def wanted(self, latents: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """Return the noise, or the velocity sqrt(a) * noise - sqrt(1 - a) * latents."""
        if self.prediction == "v_prediction":
            velocity: Tensor = self.scheduler.get_velocity(latents, noise, steps)
            return velocity
        return noise

    def snr(self, steps: Tensor) -> Tensor:
        """Return a / (1 - a)."""
        kept: Tensor = self.scheduler.alphas_cumprod.to(steps.device, torch.float32)[steps]
        return kept / (1 - kept)
