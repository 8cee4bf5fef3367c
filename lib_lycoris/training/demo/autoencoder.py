"""The image's way into the latent space and back: a small AutoencoderKL, eight pixels to a latent one as in the real model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .linear_start import start_linear
from .schedule import Pace, quiet

CONFIG: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "block_out_channels": [8, 16, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "norm_num_groups": 2,
    "sample_size": 64, "scaling_factor": 0.18215,
}  # fmt: skip


def as_input(pictures: Tensor) -> Tensor:
    """Return bytes (count, 3, side, side) as numbers from -1 to 1."""
    return pictures.float() / 127.5 - 1


def fresh() -> Any:
    """Return an autoencoder whose residual branches are at zero."""
    from diffusers import AutoencoderKL

    return quiet(AutoencoderKL(**CONFIG)).to(memory_format=torch.channels_last)


def train(pictures: Tensor, steps: int, batch: int = 6) -> Any:
    """Train on images (count, 3, side, side) of bytes and return the model with latents of mean 0 and unit covariance."""
    model = fresh()
    start_linear(model, as_input(pictures[:60]))
    pace = Pace("autoencoder", model.parameters(), steps, rate=6e-4)
    for step in range(steps):
        x = as_input(pictures[torch.randint(len(pictures), (batch,))])
        latent = model.encode(x).latent_dist
        z = latent.mean + 0.03 * torch.randn_like(latent.mean)
        y = model.decode(z).sample
        loss = (y - x).abs().mean() + (y - x).square().mean() + 1e-3 * latent.mean.square().mean()
        pace.step(step, loss)
    pace.finish()
    _whiten(model, pictures)
    return model.eval()


@torch.no_grad()
def encode(model: Any, pictures: Tensor, batch: int = 64) -> Tensor:
    """Return the latents of bytes, scaled as the UNet sees them."""
    parts = [model.encode(as_input(part)).latent_dist.mean for part in pictures.split(batch)]
    latents: Tensor = (torch.cat(parts) * model.config.scaling_factor).contiguous()
    return latents


@torch.no_grad()
def _whiten(model: Any, pictures: Tensor) -> None:
    """Turn the latent axes by the 1x1 layers on both sides, so that they mean nothing new and suit the noise."""
    z = torch.cat([model.encode(as_input(part)).latent_dist.mean for part in pictures[:2000].split(100)])
    flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    there = vectors @ torch.diag(values.rsqrt()) @ vectors.T / model.config.scaling_factor
    back = torch.linalg.inv(there)
    count = z.shape[1]
    quant, post = model.quant_conv, model.post_quant_conv
    weight, bias = quant.weight[:count, :, 0, 0].clone(), quant.bias[:count].clone()
    quant.weight[:count, :, 0, 0] = there @ weight
    quant.bias[:count] = there @ (bias - mean)
    quant.weight[count:], quant.bias[count:] = 0.0, -20.0  # the spread that the encoder claims: none
    inner = post.weight[:, :, 0, 0].clone()
    post.bias += inner @ mean
    post.weight[:, :, 0, 0] = inner @ back


def sharpen(model: Any, pictures: Tensor, steps: int, batch: int = 6) -> Any:
    """Train the decoder alone some more, for the same latents: an UNet that was trained on them stays right."""
    with torch.no_grad():
        latents = torch.cat([model.encode(as_input(part)).latent_dist.mean for part in pictures.split(100)])
    spread = float(latents.std())
    parameters = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    pace = Pace("decoder", parameters, steps, rate=6e-4)
    for step in range(steps):
        chosen = torch.randint(len(pictures), (batch,))
        z = latents[chosen] + 0.05 * spread * torch.randn(batch, *latents.shape[1:])  # what a UNet makes is never exact
        x = as_input(pictures[chosen])
        y = model.decode(z).sample
        pace.step(step, (y - x).abs().mean() + (y - x).square().mean())
    pace.finish()
    return model.eval()
