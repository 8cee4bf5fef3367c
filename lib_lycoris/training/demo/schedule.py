"""The loop around every training here: one optimiser, a rate that falls as a cosine, a moving average, progress in print."""

from __future__ import annotations

import time
from collections.abc import Iterable
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn

SHOWN = 25  # steps between two lines


class Pace:
    """Steps an optimiser along and keeps the average of the weights, which is better than the last of them."""

    def __init__(self, name: str, parameters: Iterable[nn.Parameter], steps: int, rate: float, keep: float = 0.99) -> None:
        self.name, self.steps, self.rate, self.keep = name, steps, rate, keep
        self.parameters: list[Tensor] = [item for item in parameters if item.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True)
        self.average = [item.detach().clone() for item in self.parameters]
        self.started = time.monotonic()
        self.losses: list[float] = []

    def step(self, step: int, loss: Tensor) -> None:
        """Follow a loss one step (counted from 0)."""
        share = (step + 1) / self.steps
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + cos(pi * share)))
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        with torch.no_grad():
            keep = min(self.keep, (step + 1) / (step + 10))
            torch._foreach_lerp_(self.average, self.parameters, 1 - keep)
        self.losses.append(loss.item())
        if (step + 1) % SHOWN == 0 or step + 1 == self.steps:
            recent = sum(self.losses[-SHOWN:]) / len(self.losses[-SHOWN:])
            spent = time.monotonic() - self.started
            print(f"{self.name}: step {step + 1} of {self.steps}, loss {recent:.4f}, {spent:.0f} s", flush=True)

    @torch.no_grad()
    def finish(self) -> None:
        """Put the average in the place of the last weights."""
        for item, mean in zip(self.parameters, self.average):
            item.copy_(mean)


@torch.no_grad()
def quiet(model: Any) -> Any:
    """Let every residual branch begin at nothing, as the authors of these models did: deep ones learn sooner so."""
    for name, module in model.named_modules():
        last = name.endswith((".conv2", ".proj_out", ".to_out.0", ".ff.net.2", ".out_proj", ".mlp.fc2"))
        if last and isinstance(module, (nn.Linear, nn.Conv2d)):
            module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()
    return model
