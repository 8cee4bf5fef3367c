"""Z-Image: a language model's states without their padding, time that runs the other way, and an answer of the other sign."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.items import Item
from ..data.pictures import Cut
from .base import Texts
from .transformer import FlowTransformer

LONG = 512  # tokens


class ZImage(FlowTransformer):
    """The interface over diffusers' ZImagePipeline."""

    family, label, guidance = "z-image", "Z-Image", 4.0

    def _read(self, captions: list[str]) -> Texts:
        """Return states (n, tokens, width), zeros behind each caption's own, and how many are its own (n,)."""
        length = self.settings.t5xxl_max_token_length or LONG
        found, _ = self.pipe.encode_prompt(captions, device=self.device, do_classifier_free_guidance=False, max_sequence_length=length)
        states = found[0].new_zeros(len(found), length, found[0].shape[-1])
        for row, own in enumerate(found):
            states[row, : len(own)] = own
        return Texts({"states": states, "length": torch.tensor([len(own) for own in found])})

    def predict(self, noisy: Tensor, steps: Tensor, texts: Texts, sizes: Sequence[tuple[Item, Cut]]) -> Tensor:
        """Return noise - latents; the model itself answers with latents - noise, at the time 1 - sigma."""
        own = [state[:length] for state, length in zip(texts.tensors["states"], texts.tensors["length"].tolist())]
        images = list(noisy.unsqueeze(2).unbind(0))  # each is a film of one picture
        time = 1 - steps.to(noisy) / self.process.steps
        answers: list[Tensor] = self.pipe.transformer(images, time, own, return_dict=False)[0]
        return -torch.stack(list(answers)).squeeze(2)
