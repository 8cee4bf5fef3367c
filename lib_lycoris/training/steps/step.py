"""One step: gradients of a batch or several, and what the optimiser makes of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...records import dataclass
from ..algorithms.arguments import NetworkRequest
from ..algorithms.trained_network import TrainedNetwork
from ..data.order import Batch, share_of
from ..models.base import TrainedModel
from .draws import seed_everything
from .lessons import Lessons
from .loss import losses
from .noise import disturbed, noise_of, steps_of


@dataclass(frozen=True)
class Taken:
    """What came of a step."""

    loss: float
    norm: float  # of the gradient, before it was cut
    skipped: bool  # fp16's scaler found a number that was too large, and does so at the beginning of each run


class Stepper:
    """Computes steps of one network on one model."""

    def __init__(
        self, model: TrainedModel, network: TrainedNetwork, settings: Any, request: NetworkRequest, lessons: Lessons, accelerator: Any
    ) -> None:
        self.model, self.network, self.settings, self.request = model, network, settings, request
        self.lessons, self.accelerator = lessons, accelerator

    def take(self, batches: list[Batch], optimiser: Any, schedule: Any) -> Taken:
        """Do one step with the gradients of all batches."""
        optimiser.zero_grad()
        whole = 0.0
        for batch in batches:
            loss = self.loss(batch) / len(batches)
            if loss.requires_grad:
                self.accelerator.backward(loss)
            whole += float(loss.detach())
        whole = self._over_processes(whole)
        limit = self.settings.max_grad_norm or float("inf")
        norm = float(self.accelerator.clip_grad_norm_(list(self.network.weights().values()), limit))
        optimiser.step()
        skipped = bool(getattr(optimiser, "step_was_skipped", False))
        if not skipped:
            schedule.step()
            self._scale_down()
        return Taken(whole, norm, skipped)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch: of this process's images, divided by the number of all."""
        mine = share_of(batch.items, self.accelerator.process_index, self.accelerator.num_processes)
        if not mine:
            return torch.zeros((), device=self.model.device)
        seed_everything(self.settings.seed, "modules", batch.number, self.accelerator.process_index)
        places = [place for place, _ in mine]
        lesson = self.lessons.lesson(batch, mine)
        process = self.model.process
        steps = steps_of(self.settings, process, tuple(lesson.latents.shape[1:]), batch.number, places).to(self.model.device)
        self._mask(steps)
        noise = noise_of(self.settings, lesson.latents, batch.number, places)
        noisy = process.noisy(lesson.latents, disturbed(self.settings, noise, batch.number, places), steps)
        with self.accelerator.autocast():
            texts = self.lessons.texts(lesson.captions)
            answer = self.model.predict(noisy.to(self.model.dtype), steps, texts.to(self.model.device, self.model.dtype), lesson.sizes)
        found = losses(self.settings, process, answer, process.wanted(lesson.latents, noise, steps), steps, lesson.masks)
        return (found * lesson.counts).sum() / len(batch.items)

    def _mask(self, steps: Tensor) -> None:
        """Tell T-LoRA how many ranks take part at these steps."""
        if self.request.mask is None:
            return
        from lycoris.modules.tlora import compute_timestep_mask, set_timestep_mask

        fewest, power = self.request.mask
        step = int(steps.float().mean())  # one for the batch: its modules take one mask
        set_timestep_mask(compute_timestep_mask(step, self.model.process.steps, self.settings.network_dim, fewest, power))

    def _over_processes(self, loss: float) -> float:
        """Add up losses and gradients of all processes."""
        if self.accelerator.num_processes == 1:
            return loss
        for parameter in self.network.weights().values():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.accelerator.reduce(gradient, "sum")
        return float(self.accelerator.reduce(torch.tensor(loss, device=self.model.device), "sum"))

    @torch.no_grad()
    def _scale_down(self) -> None:
        if self.settings.scale_weight_norms:
            for one in self.network.entries:
                one.module.apply_max_norm(self.settings.scale_weight_norms, self.model.device)


def without_mask() -> None:
    """Let T-LoRA use all its ranks, as a file does."""
    from lycoris.modules.tlora import clear_timestep_mask

    clear_timestep_mask()
