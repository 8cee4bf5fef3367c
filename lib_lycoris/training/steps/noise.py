"""Noise and steps of a batch: every image draws its own, so that a batch on several processes is the batch on one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..models.base import Process
from .draws import chooser, normal

SMALLEST, WIDEST = 2.0, 2.0  # each size of the pyramid is 2 to 4 times smaller than the one before


def steps_of(settings: Any, process: Process, shape: tuple[int, ...], number: int, places: Sequence[int]) -> Tensor:
    """Return the noise steps (n,) of a batch's images; ``shape``: of their latents."""
    low, high = settings.min_timestep, settings.max_timestep
    return torch.tensor([process.draw(chooser(settings.seed, "step", number, place), low, high, shape) for place in places])


def noise_of(settings: Any, latents: Tensor, number: int, places: Sequence[int]) -> Tensor:
    """Return noise (n, ...) for latents: plain, shifted, or of several sizes, as settings ask."""
    shape = tuple(latents.shape[1:])
    noise = torch.stack([normal(shape, settings.seed, "noise", number, place) for place in places]).to(latents)
    if settings.noise_offset:
        shift = [normal((shape[0], 1, 1), settings.seed, "offset", number, place) for place in places]
        amount: Any = settings.noise_offset
        if settings.adaptive_noise_scale:
            amount = (amount + settings.adaptive_noise_scale * latents.mean((2, 3), keepdim=True).abs()).clamp(min=0.0)
        noise = noise + amount * torch.stack(shift).to(latents)
    if settings.multires_noise_iterations:
        rows = [_pyramid(settings, row, number, place) for row, place in zip(noise, places)]
        noise = torch.stack(rows)
    return noise


def disturbed(settings: Any, noise: Tensor, number: int, places: Sequence[int]) -> Tensor:
    """Return the noise that the model sees, where it is another than the one that it is to tell."""
    if not settings.ip_noise_gamma:
        return noise
    more = torch.stack([normal(tuple(noise.shape[1:]), settings.seed, "disturbed", number, place) for place in places])
    return noise + float(settings.ip_noise_gamma) * more.to(noise)


def _pyramid(settings: Any, noise: Tensor, number: int, place: int) -> Tensor:
    """Return noise (channels, h, w) with coarser noises added, each counted by the discount, at a spread of 1."""
    channels, height, width = noise.shape
    choose = chooser(settings.seed, "pyramid", number, place)
    size = (height, width)
    for level in range(settings.multires_noise_iterations):
        factor = SMALLEST + choose.random() * WIDEST
        size = (max(1, int(height / factor**level)), max(1, int(width / factor**level)))
        coarse = normal((1, channels, *size), settings.seed, "pyramid", number, place, level).to(noise)
        noise = noise + interpolate(coarse, (height, width), mode="bilinear")[0] * settings.multires_noise_discount**level
        if min(size) == 1:
            break
    return noise / noise.std()
