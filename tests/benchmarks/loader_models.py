"""Models of real size with random weights, made at run time; twins share one set of weights, each with layers of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

WORDS = 77
SDXL: dict[str, Any] = {
    "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10),
    "block_out_channels": (320, 640, 1280), "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "tiny": {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 64, "attention_head_dim": 4, "norm_num_groups": 8},
    "sdxl": SDXL,
}
TEXT_ENCODERS: dict[str, dict[str, int]] = {
    "sd1": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99},
}  # for SDXL the UNet is measured alone


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a step is given, at one size."""

    latents: Tensor  # (batch, 4, side, side)
    words: Tensor  # (batch, 77, width)
    time: Tensor  # where the weights are: to bring it there would end the recording of a graph
    added: dict[str, Tensor] | None = None
    tokens: Tensor | None = None  # (1, 77) for the text encoder


@dataclass(eq=False)
class Model:
    """A UNet, and for SD1.5 its text encoder."""

    kind: str
    parts: dict[str, nn.Module]
    _inputs: dict[tuple[int, int], Inputs] = field(default_factory=dict)

    def inputs(self, side: int, batch: int) -> Inputs:
        """Return random inputs of a size, the same ones each time."""
        if (side, batch) not in self._inputs:
            unet: Any = self.parts["unet"]
            like = {"device": unet.device, "dtype": unet.dtype}
            words = torch.randn(batch, WORDS, unet.config.cross_attention_dim, **like)
            added = {"text_embeds": torch.randn(batch, 1280, **like), "time_ids": torch.ones(batch, 6, **like)}
            encoder: Any = self.parts.get("text_encoder")
            tokens = None if encoder is None else (torch.arange(WORDS, device=unet.device)[None] % encoder.config.vocab_size)
            latents = torch.randn(batch, 4, side, side, **like)
            time = torch.tensor(500, device=unet.device)
            self._inputs[(side, batch)] = Inputs(latents, words, time, added if self.kind == "sdxl" else None, tokens)
        return self._inputs[(side, batch)]

    @torch.no_grad()
    def step(self, side: int = 64, batch: int = 2) -> Tensor:
        """Return what one UNet step gives, at latents of side x side."""
        return self.through(self.parts["unet"], side, batch)

    @torch.no_grad()
    def through(self, unet: Callable[..., Any], side: int, batch: int) -> Tensor:
        """Return what a step through this UNet, or what was made of it, gives."""
        given = self.inputs(side, batch)
        found: Tensor = unet(
            given.latents, given.time, encoder_hidden_states=given.words, added_cond_kwargs=given.added, return_dict=False
        )[0]
        return found

    @torch.no_grad()
    def probe(self, side: int = 8) -> Tensor:
        """Run every layer once, the text encoder's too, on the smallest image: what the layers do on being called is done."""
        tokens = self.inputs(side, 1).tokens
        if tokens is not None:
            self.parts["text_encoder"](tokens)
        return self.step(side, 1)

    def twin(self) -> Model:
        """Return layers of their own over the same weights: what is done to the one's forwards does not touch the other."""
        kept = {id(t): t for part in self.parts.values() for t in (*part.parameters(), *part.buffers())}
        return Model(self.kind, {name: copy.deepcopy(part, dict(kept)) for name, part in self.parts.items()}, self._inputs)

    def copied(self) -> Model:
        """Return the same model with weights of its own."""
        return Model(self.kind, copy.deepcopy(self.parts), self._inputs)


def make(kind: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """Make a model with random weights of a size at which no step overflows or dies away."""
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            parts: dict[str, nn.Module] = {"unet": UNet2DConditionModel(**UNETS[kind])}
            if kind in TEXT_ENCODERS:
                parts["text_encoder"] = CLIPTextModel(CLIPTextConfig(max_position_embeddings=WORDS, **TEXT_ENCODERS[kind]))
    finally:
        torch.set_default_dtype(usual)
    for part in parts.values():
        part.to_empty(device=device).eval().requires_grad_(False)
        for parameter in part.parameters():
            _fill(parameter)
        for name, buffer in part.named_buffers():
            buffer.copy_(torch.arange(buffer.numel()).reshape(buffer.shape))
            assert name.endswith("position_ids"), f"the buffer {name} is not known"
    return Model(kind, parts)


def _fill(parameter: Tensor) -> None:
    """Fill a parameter in place, without a second copy of it."""
    if parameter.dim() == 1:
        parameter.fill_(0.5)
    else:
        bound = (3.0 / parameter[0].numel()) ** 0.5
        parameter.uniform_(-bound, bound)
