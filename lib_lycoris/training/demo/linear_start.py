"""Where the autoencoder's training begins: colours pass through as they are, as a small image that is made small and large again.

Without it most of the time goes into finding out that there are colours. What stands in the way of a linear beginning are the group
norms and SiLU at both ends: a large constant in the same group makes the norm a fixed factor, and a bias keeps SiLU where it is straight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

COLOURS = 3
CONSTANT, STRAIGHT, SMALL = 10.0, 4.0, 0.15  # beside a colour in its group; where SiLU is nearly x; what is left of the constant there
PLACES, PAIRS = [0, 4, 5], [[1, 2], [6, 7], [6, 7]]  # in the decoder's last layer, two groups of four: colours, and constants beside them


@torch.no_grad()
def start_linear(model: Any, pictures: Tensor) -> None:
    """Set the way of the three colours through an AutoencoderKL whose residual branches are at zero; right on average for images."""
    _encoder(model.encoder)
    _decoder(model.decoder)
    for layer in (model.quant_conv, model.post_quant_conv):
        layer.weight.zero_()
        layer.bias.zero_()
        for channel in range(model.config.latent_channels):
            layer.weight[channel, channel] = 1.0
    again = model.decode(model.encode(pictures).latent_dist.mean).sample
    model.decoder.conv_out.bias += (pictures - again).mean((0, 2, 3))


def _encoder(encoder: Any) -> None:
    places = list(range(COLOURS))
    _pass(encoder.conv_in, places, places, _tap())
    half = torch.zeros(3, 3)
    half[:2, :2] = 0.25
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            _pass(resnet.conv_shortcut, places, places, torch.ones(1, 1))
        for sampler in block.downsamplers or ():
            _pass(sampler.conv, places, places, half)
    norm, last = encoder.conv_norm_out, encoder.mid_block.resnets[-1].conv2
    size = norm.num_channels // norm.num_groups
    last.bias[COLOURS : size - 1] = torch.tensor([(-1.0) ** n for n in range(size - 1 - COLOURS)]) * CONSTANT
    norm.weight[:COLOURS] = CONSTANT * ((size - 1 - COLOURS) / size) ** 0.5
    norm.bias[:COLOURS] = STRAIGHT
    _pass(encoder.conv_out, places, places, _tap())
    encoder.conv_out.bias[:COLOURS] = -STRAIGHT


def _decoder(decoder: Any) -> None:
    norm, last = decoder.conv_norm_out, decoder.up_blocks[-1].resnets[-1].conv2
    _pass(decoder.conv_in, PLACES, list(range(COLOURS)), _tap())
    blur = torch.tensor([1.0, 2.0, 1.0])
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            _pass(resnet.conv_shortcut, PLACES, PLACES, torch.ones(1, 1))
        for sampler in block.upsamplers or ():
            _pass(sampler.conv, PLACES, PLACES, torch.outer(blur, blur) / 16)
    spread = CONSTANT * 0.5**0.5  # of a group of four with two constants
    norm.bias[:] = STRAIGHT
    norm.weight[PLACES] = spread
    _pass(decoder.conv_out, list(range(COLOURS)), PLACES, _tap())
    for colour, pair in enumerate(PAIRS):
        last.bias[pair] = torch.tensor([CONSTANT, -CONSTANT])
        norm.weight[pair] = SMALL * spread
        decoder.conv_out.weight[colour, pair, 1, 1] = -0.5 / SMALL  # their sum is what the norm has taken away as the group's mean
        decoder.conv_out.bias[colour] = STRAIGHT / SMALL - STRAIGHT


def _pass(layer: nn.Conv2d | None, to: list[int], start: list[int], kernel: Tensor) -> None:
    """Let these channels come from those and from nothing else."""
    if layer is None:
        return
    for row, column in zip(to, start):
        layer.weight[row] = 0.0
        layer.weight[row, column] = kernel
        if layer.bias is not None:
            layer.bias[row] = 0.0


def _tap() -> Tensor:
    kernel = torch.zeros(3, 3)
    kernel[1, 1] = 1.0
    return kernel
