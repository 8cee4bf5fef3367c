"""The loss on images that are not trained on, always with the same noise and steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..data.order import Batch, by_bucket

if TYPE_CHECKING:
    from ..setup import Run


@torch.no_grad()
def validation_loss(run: Run) -> float:
    """Return the mean loss of the validation images."""
    groups = by_bucket(run.found.validation)
    size = run.found.datasets[0].batch_size * run.accelerator.num_processes
    chunks = [tuple(items[at : at + size]) for items in groups.values() for at in range(0, len(items), size)]
    if run.settings.max_validation_steps:
        chunks = chunks[: run.settings.max_validation_steps]
    total = torch.zeros(())
    count = 0
    for number, items in enumerate(chunks):
        total += run.stepper.loss(Batch(items, 0, -1 - number)).detach().cpu() * len(items)
        count += len(items)
    return float(run.accelerator.reduce(total.to(run.model.device), "sum")) / count
