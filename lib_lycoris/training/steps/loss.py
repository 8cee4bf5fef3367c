"""How far an answer is from what was wanted: a number for each image, weighed by its step's signal-to-noise ratio."""

from __future__ import annotations

from math import exp, log
from typing import Any

import torch
from torch import Tensor

from ..models.base import Process

LARGEST_SNR = 1000.0  # of the debiased weight: the first steps would count for next to nothing


def losses(settings: Any, process: Process, answer: Tensor, wanted: Tensor, steps: Tensor, masks: Tensor | None) -> Tensor:
    """Return the loss (n,) of answers (n, ...); masks (n, 1, h, w)."""
    answer, wanted = answer.float(), wanted.float()
    found = elementwise(settings, process, answer, wanted, steps)
    if masks is not None:
        found = found * masks.to(found)
    return found.flatten(1).mean(1) * weights(settings, process, steps)


def elementwise(settings: Any, process: Process, answer: Tensor, wanted: Tensor, steps: Tensor) -> Tensor:
    """Return the loss of each number."""
    apart = answer - wanted
    if settings.loss_type == "l2":
        return apart.square()
    if settings.loss_type == "l1":
        return apart.abs()
    c = huber_c(settings, process, steps).to(apart).view(-1, *[1] * (apart.ndim - 1))
    shape = (apart.square() + c.square()).sqrt() - c
    return 2 * c * shape if settings.loss_type == "huber" else 2 * shape


def huber_c(settings: Any, process: Process, steps: Tensor) -> Tensor:
    """Return where huber's loss goes from square to straight, for each step."""
    c = settings.huber_c
    if settings.huber_schedule == "constant":
        found = torch.full(steps.shape, c)
    elif settings.huber_schedule == "exponential":
        found = torch.tensor([exp(log(c) * float(step) / process.steps) for step in steps])
    else:
        sigma = process.snr(steps).clamp(min=1e-12).rsqrt()
        found = (1 - c) / (1 + sigma).square() + c
    return found * float(settings.huber_scale)


def weights(settings: Any, process: Process, steps: Tensor) -> Tensor:
    """Return what each step counts."""
    found = torch.ones(steps.shape, device=steps.device)
    velocity = process.prediction == "v_prediction"
    snr = process.snr(steps)
    if settings.min_snr_gamma:
        cut = snr.clamp(max=settings.min_snr_gamma)
        found = found * (cut / (snr + 1) if velocity else torch.where(snr > 0, cut / snr, torch.ones_like(snr)))
    if settings.scale_v_pred_loss_like_noise_pred and velocity:
        found = found * (snr / (snr + 1))
    if settings.debiased_estimation_loss:
        kept = snr.clamp(max=LARGEST_SNR)
        found = found * (1 / (kept + 1) if velocity else kept.clamp(min=1e-12).rsqrt())
    return found
