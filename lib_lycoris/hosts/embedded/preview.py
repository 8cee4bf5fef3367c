"""x₀ ≈ (x - √(1-ᾱ) · ε) / √ᾱ: what the image will be, as far as the model knows at a step, decoded small."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 24  # of the latents that are decoded: 192 pixels for the usual models
SHARE = 0.1  # of the time that previews may take
PAUSE = 0.4  # seconds between two at least


class Preview:
    """Watches the steps of one image's scheduler and gives a small image now and then."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self._clean: Tensor | None = None  # the latest x₀
        self._next = 0.0  # the time from which another one may be made
        pipe.scheduler.step = self._watched(pipe.scheduler.step)

    def _watched(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(inner)  # the pipeline reads the step's signature to tell whether it takes a generator
        def step(output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._clean = clean(self.pipe.scheduler, output, timestep, sample) if time.monotonic() >= self._next else None
            return inner(output, timestep, sample, *args, **kwargs)

        return step

    def picture(self) -> Any:
        """Return the latest guess as a PIL image; None where it is too early for another, or it cannot be decoded."""
        latents, self._clean = self._clean, None
        if latents is None:
            return None
        began = time.monotonic()
        found = self._decoded(latents[:1])
        now = time.monotonic()
        self._next = now + max(PAUSE, (now - began) / SHARE)
        return found

    def _decoded(self, latents: Tensor) -> Any:
        vae: Any = self.pipe.vae
        scale = min(1.0, SIDE / max(latents.shape[2:]))
        height, width = (max(1, round(side * scale)) for side in latents.shape[2:])
        small = F.adaptive_avg_pool2d(latents.float(), (height, width))
        pixels = vae.decode(small.to(vae.dtype) / vae.config.scaling_factor, return_dict=False)[0].float()
        if not bool(torch.isfinite(pixels).all()):  # SDXL's own VAE in half precision
            return None
        return self.pipe.image_processor.postprocess(pixels, output_type="pil")[0]


def clean(scheduler: Any, output: Tensor, timestep: Any, sample: Tensor) -> Tensor:
    """Return x₀ from the model's output at a sample; Euler's samples are divided by √ᾱ, the others' are not."""
    product = float(scheduler.alphas_cumprod[min(max(round(float(timestep)), 0), len(scheduler.alphas_cumprod) - 1)])
    alpha, sigma = sqrt(product), sqrt(1 - product)
    x: Tensor = sample * alpha if type(scheduler).__name__.startswith("Euler") else sample
    if scheduler.config.prediction_type == "v_prediction":
        return alpha * x - sigma * output
    if scheduler.config.prediction_type == "sample":
        return output
    return (x - sigma * output) / alpha
