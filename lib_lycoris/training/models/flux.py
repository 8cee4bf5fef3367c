"""Flux.1 (dev, schnell, Krea): CLIP's pooled vector and T5's states, latents in packs of 2 x 2, the distilled guidance as an input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.items import Item
from ..data.pictures import Cut
from .base import Texts
from .transformer import PATCH, FlowTransformer

LONG, SHORT = 512, 256  # tokens of T5 that dev and schnell were made with


class Flux(FlowTransformer):
    """The interface over diffusers' FluxPipeline."""

    family, label, guidance = "flux", "Flux.1", 3.5

    def _read(self, captions: list[str]) -> Texts:
        """Return T5's states (n, tokens, width) and CLIP's pooled vector (n, width)."""
        length = self.settings.t5xxl_max_token_length or (LONG if self.pipe.transformer.config.guidance_embeds else SHORT)
        states, pooled, _ = self.pipe.encode_prompt(captions, None, device=self.device, max_sequence_length=length)
        return Texts({"states": states, "pooled": pooled})

    def predict(self, noisy: Tensor, steps: Tensor, texts: Texts, sizes: Sequence[tuple[Item, Cut]]) -> Tensor:
        """Return the transformer's answer (n, channels, h, w)."""
        count, channels, height, width = noisy.shape
        states = texts.tensors["states"]
        guided = self.pipe.transformer.config.guidance_embeds
        answer = self.pipe.transformer(
            hidden_states=packed(noisy), timestep=steps.to(noisy) / self.process.steps, encoder_hidden_states=states,
            pooled_projections=texts.tensors["pooled"], txt_ids=states.new_zeros(states.shape[1], 3), img_ids=places(noisy),
            guidance=noisy.new_full((count,), self.settings.guidance_scale) if guided else None,
        ).sample  # fmt: skip
        return unpacked(answer, channels, height, width)


def packed(latents: Tensor) -> Tensor:
    """Return (n, h/2 * w/2, 4 * channels) of latents (n, channels, h, w)."""
    count, channels, height, width = latents.shape
    cut = latents.reshape(count, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(count, -1, channels * PATCH * PATCH)


def unpacked(packs: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Return latents (n, channels, height, width), the reverse of :func:`packed`."""
    cut = packs.reshape(len(packs), height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(len(packs), channels, height, width)


def places(latents: Tensor) -> Tensor:
    """Return (h/2 * w/2, 3): 0, row and column of each pack."""
    rows, columns = (torch.arange(side // PATCH, device=latents.device, dtype=latents.dtype) for side in latents.shape[-2:])
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3)
