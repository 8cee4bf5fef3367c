"""SD1, SD2 and SDXL: a UNet, one or two CLIP text encoders and a VAE, as the embedded host opens them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import ToolError
from ...hosts.embedded.models import LoadedModel
from ...wording import counted
from ..data.items import Item
from ..data.pictures import Cut
from .base import Texts, TrainedModel
from .diffusion import Diffusion

if TYPE_CHECKING:
    from PIL import Image

    from ...hosts.embedded.host import EmbeddedHost
    from ..reporting.samples import Prompt

SAMPLERS = {
    "ddim": "DDIM", "euler": "Euler", "k_euler": "Euler", "euler_a": "Euler a", "k_euler_a": "Euler a", "dpmsolver++": "DPM++ 2M",
}  # fmt: skip
PIECE = 75  # tokens between the marks of beginning and end


class StableDiffusion(TrainedModel):
    """The interface over a pipeline of diffusers."""

    def __init__(self, model: LoadedModel, settings: Any) -> None:
        self.model, self.pipe = model, model.pipe
        self.family, self.name, self.size = model.family, model.name, model.size
        self.clip_skip = settings.clip_skip
        self.pieces = settings.max_token_length // PIECE
        self.process = Diffusion(self.pipe.scheduler.config, settings.zero_terminal_snr, settings.v_parameterization)
        weight = next(self.pipe.unet.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.pipe.vae.to(dtype=torch.float32)  # SDXL's overflows in half precision

    def parts(self) -> dict[str, nn.Module]:
        """Return UNet and text encoders."""
        return self.model.parts()

    def vae(self) -> nn.Module:
        """Return the VAE."""
        vae: nn.Module = self.pipe.vae
        return vae

    def text_encoders(self) -> list[nn.Module]:
        """Return the text encoders."""
        return [encoder for _, encoder in self.model.towers()]

    def file(self) -> Path | None:
        """Return the checkpoint, where it is one file."""
        return self.model.file

    @cached_property
    def _host(self) -> EmbeddedHost:
        from ...hosts.embedded.host import EmbeddedHost

        return EmbeddedHost(self.model, [])

    def image(self, prompt: Prompt, sampler: str) -> Image.Image:
        """Return an image as the app makes it."""
        from ...hosts.protocol import GenerationRequest

        self.pipe.vae.to(self.dtype)
        try:
            host = self._host
            guidance = host.cfg if prompt.guidance is None else prompt.guidance
            width, height = prompt.width or host.size, prompt.height or host.size
            request = GenerationRequest(prompt.text, prompt.negative, prompt.seed, prompt.steps, width, height, guidance, SAMPLERS[sampler])
            made: Image.Image = host.generate(request).image
        finally:
            self.pipe.vae.float()
        return made

    def latent_shape(self, bucket: tuple[int, int]) -> tuple[int, int, int]:
        """Return channels, height, width: eight pixels are one."""
        scale = 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)
        return self.pipe.vae.config.latent_channels, bucket[1] // scale, bucket[0] // scale

    @torch.no_grad()
    def latents(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        """Return the scaled latents."""
        spread = self.pipe.vae.encode(pixels.to(self.device)).latent_dist
        found = spread.mean if noise is None else spread.mean + spread.std * noise.to(self.device)
        latents: Tensor = (found * self.pipe.vae.config.scaling_factor).contiguous()
        return latents

    def texts(self, captions: Sequence[str]) -> Texts:
        """Return states (n, pieces * 77, width), and SDXL's pooled vector of the last encoder."""
        states, pooled = [], None
        for tokenizer, encoder in self.model.towers():
            tokens = self._tokens(tokenizer, captions).to(self.device)
            result = encoder(tokens.flatten(0, 1), output_hidden_states=True)
            state = self._state(encoder, result)
            states.append(state.reshape(len(captions), -1, state.shape[-1]))
            pooled = result[0].reshape(len(captions), self.pieces, -1)[:, 0] if len(self.model.towers()) > 1 else None
        found = {"states": torch.cat(states, dim=-1)}
        return Texts(found if pooled is None else {**found, "pooled": pooled})

    def _tokens(self, tokenizer: Any, captions: Sequence[str]) -> Tensor:
        """Return (n, pieces, 77) numbers of tokens; what is longer is cut."""
        begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        rows = []
        for caption in captions:
            words = tokenizer(caption, add_special_tokens=False, truncation=False, verbose=False).input_ids[: self.pieces * PIECE]
            cut = [words[start : start + PIECE] for start in range(0, self.pieces * PIECE, PIECE)]
            rows.append([[begin, *piece, end, *[pad] * (PIECE - len(piece))] for piece in cut])
        return torch.tensor(rows)

    def _state(self, encoder: Any, result: Any) -> Tensor:
        """Return what the UNet reads: the layer that the model was made with, or that of clip_skip."""
        layer = self.clip_skip or (2 if self.model.penultimate else 1)
        if layer >= len(result.hidden_states):
            layers = counted(len(result.hidden_states) - 1, "layer")
            raise ToolError(f"--clip_skip is {layer}, but this text encoder has {layers}")
        state: Tensor = result.hidden_states[-layer]
        if len(self.model.towers()) == 1:
            state = getattr(encoder, "text_model", encoder).final_layer_norm(state)
        return state

    def predict(self, noisy: Tensor, steps: Tensor, texts: Texts, sizes: Sequence[tuple[Item, Cut]]) -> Tensor:
        """Return the UNet's answer; SDXL is told the images' sizes and cuts too."""
        more = {}
        if "pooled" in texts.tensors:
            numbers = [_size_numbers(item, cut) for item, cut in sizes]
            more = {"text_embeds": texts.tensors["pooled"], "time_ids": torch.tensor(numbers, device=noisy.device, dtype=noisy.dtype)}
        answer: Tensor = self.pipe.unet(noisy, steps, encoder_hidden_states=texts.tensors["states"], added_cond_kwargs=more or None).sample
        return answer


def _size_numbers(item: Item, cut: Cut) -> list[int]:
    """Return original height and width, top and left of the cut, height and width of what is trained on."""
    left = item.fit.resized[0] - item.fit.bucket[0] - cut.left if cut.flipped else cut.left
    return [item.size[1], item.size[0], cut.top, left, item.fit.bucket[1], item.fit.bucket[0]]
