"""What models of a transformer and a flow have in common: their pipeline's parts, their latents, their images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...errors import ToolError
from .base import Texts, TrainedModel
from .flow import Flow

if TYPE_CHECKING:
    from PIL import Image

    from ..reporting.samples import Prompt

MEANINGLESS = (  # options that speak of a noise that grows step by step, or of CLIP's layers
    "min_snr_gamma", "debiased_estimation_loss", "scale_v_pred_loss_like_noise_pred", "zero_terminal_snr", "v_parameterization",
    "clip_skip",
)  # fmt: skip
PATCH = 2  # latents on a side that the transformer reads as one


class FlowTransformer(TrainedModel):
    """The interface over a pipeline of diffusers; its transformer alone is trained.

    Text encoders and VAE lie on the CPU between the times that they are used: beside the transformer there may be no room for them.
    """

    label: ClassVar[str]
    guidance: ClassVar[float]  # of images while training

    def __init__(self, pipe: Any, name: str, settings: Any, device: torch.device) -> None:
        self.pipe, self.name, self.settings, self.device = pipe, name, settings, device
        self._refuse(settings)
        self.process = Flow(pipe.scheduler.config, settings)
        self.size = 128 * self._scale()
        pipe.transformer.to(device)
        self.dtype = pipe.transformer.dtype
        pipe.vae.to(dtype=torch.float32)

    def _refuse(self, settings: Any) -> None:
        """Raise ToolError for options that mean nothing to a flow or a transformer."""
        named = next((name for name in MEANINGLESS if getattr(settings, name)), None)
        if named:
            raise ToolError(f"--{named} means nothing to {self.label}, which learns a flow; leave it out")
        if settings.loss_type in ("huber", "smooth_l1") and settings.huber_schedule == "snr":
            raise ToolError(f"--huber_schedule snr means nothing to {self.label}; give exponential or constant")
        if settings.network_train_text_encoder_only or any(settings.text_encoder_lr or ()):
            raise ToolError(f"the text encoders of {self.label} are not trained here; leave --text_encoder_lr and the like out")
        step = PATCH * self._scale()
        if settings.bucket_reso_steps % step:
            raise ToolError(f"--bucket_reso_steps is {settings.bucket_reso_steps}, but {self.label} needs a multiple of {step}")

    def _scale(self) -> int:
        return int(2 ** (len(self.pipe.vae.config.block_out_channels) - 1))

    def parts(self) -> dict[str, nn.Module]:
        """Return the transformer."""
        return {"transformer": self.pipe.transformer}

    def vae(self) -> nn.Module:
        """Return the VAE."""
        vae: nn.Module = self.pipe.vae
        return vae

    def text_encoders(self) -> list[nn.Module]:
        """Return the text encoders."""
        found = (getattr(self.pipe, name, None) for name in ("text_encoder", "text_encoder_2"))
        return [encoder for encoder in found if encoder is not None]

    def latent_shape(self, bucket: tuple[int, int]) -> tuple[int, int, int]:
        """Return channels, height, width."""
        return self.pipe.vae.config.latent_channels, bucket[1] // self._scale(), bucket[0] // self._scale()

    @torch.no_grad()
    def latents(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        """Return the latents, shifted and scaled."""
        config = self.pipe.vae.config
        with self._awake(self.pipe.vae):
            spread = self.pipe.vae.encode(pixels.to(self.device)).latent_dist
            found = spread.mean if noise is None else spread.mean + spread.std * noise.to(self.device)
        latents: Tensor = ((found - (config.shift_factor or 0.0)) * config.scaling_factor).contiguous()
        return latents

    @torch.no_grad()
    def texts(self, captions: Sequence[str]) -> Texts:
        """Return captions as the transformer reads them."""
        with self._awake(*self.text_encoders()):
            return self._read(list(captions))

    @abstractmethod
    def _read(self, captions: list[str]) -> Texts:
        """Return captions as the transformer reads them; the text encoders are where the model computes."""

    @contextmanager
    def _awake(self, *parts: nn.Module) -> Iterator[None]:
        """Have parts where the model computes for a while."""
        for part in parts:
            part.to(self.device)
        try:
            yield
        finally:
            for part in parts:
                part.to("cpu")

    def image(self, prompt: Prompt, sampler: str) -> Image.Image:
        """Return an image; the pipeline's own sampler is the only one."""
        guidance = self.guidance if prompt.guidance is None else prompt.guidance
        with torch.no_grad(), self._awake(self.pipe.vae, *self.text_encoders()):
            made: Image.Image = self.pipe(
                prompt.text, negative_prompt=prompt.negative or None, width=prompt.width or self.size, height=prompt.height or self.size,
                num_inference_steps=prompt.steps, guidance_scale=guidance, generator=torch.Generator().manual_seed(prompt.seed),
            ).images[0]  # fmt: skip
        return made
