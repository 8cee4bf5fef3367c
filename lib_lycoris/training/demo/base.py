"""Text encoder and UNet, trained together from nothing: the model learns to tell noise from a scene by the scene's caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...hosts.embedded.shapes import SCHEDULE
from ...hosts.embedded.tokenizer import demo_tokenizer
from ...records import dataclass
from .schedule import Pace, quiet

UNET: dict[str, Any] = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "block_out_channels": [32, 40, 48, 64],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "cross_attention_dim": 64, "attention_head_dim": 8, "norm_num_groups": 2,
}  # fmt: skip
TEXT = {"hidden_size": 64, "intermediate_size": 256, "projection_dim": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
LENGTH = 77  # tokens of a prompt, marks included
WHOLE = 0.8  # from this share of the steps on, captions are padded as they will be in images
LOUD = 2.5
BATCH = 32
DROPPED = 0.1  # share of captions left empty, so that guidance has something to lead away from


@dataclass(frozen=True)
class Model:
    """What the demo model is made of."""

    vae: Any
    unet: Any
    text_encoder: Any


def fresh() -> tuple[Any, Any]:
    """Return an untrained UNet and text encoder."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = demo_tokenizer()
    last = len(tokenizer) - 1
    words = CLIPTextConfig(vocab_size=last + 1, bos_token_id=last - 1, eos_token_id=last, pad_token_id=last, **TEXT)
    unet, text_encoder = quiet(UNet2DConditionModel(**UNET)).to(memory_format=torch.channels_last), CLIPTextModel(words)
    _let_text_be_heard(unet, text_encoder)
    return unet, text_encoder


@torch.no_grad()
def _let_text_be_heard(unet: Any, text_encoder: Any) -> None:
    """Begin with loud words and a loud way from them into the image: a quiet one is not found for thousands of steps."""
    embeddings = getattr(text_encoder, "text_model", text_encoder).embeddings
    embeddings.token_embedding.weight.normal_(0.0, 0.5)
    embeddings.position_embedding.weight.normal_(0.0, 0.1)
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k", "attn2.to_v")):
            module.weight.mul_(LOUD)
        elif name.endswith("attn2.to_out.0"):
            module.weight.normal_(0.0, 0.2 * module.in_features**-0.5)


def token_table(captions: list[str]) -> Tensor:
    """Return (count, 77) token numbers."""
    tokenizer = demo_tokenizer()
    tokens: Tensor = tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
    return tokens


def noise_scheduler() -> Any:
    """Return the noise of Stable Diffusion, with the velocity as what is learned."""
    from diffusers import DDPMScheduler

    kept = {key: value for key, value in SCHEDULE.items() if key not in ("set_alpha_to_one", "steps_offset")}
    return DDPMScheduler(**kept, prediction_type="v_prediction")


def loss_of(unet: Any, text_encoder: Any, latents: Tensor, tokens: Tensor, empty: Tensor, noise: Any) -> Tensor:
    """Return how far the UNet is from a batch's velocities; latents (n, 4, 8, 8), tokens (n, length), ``empty`` (length,)."""
    dropped = torch.rand(len(tokens)) < DROPPED
    states = text_encoder(torch.where(dropped[:, None], empty, tokens)).last_hidden_state
    steps = torch.randint(0, noise.config.num_train_timesteps, (len(latents),))
    grain = torch.randn_like(latents)
    wanted = noise.get_velocity(latents, grain, steps)
    loss: Tensor = (unet(noise.add_noise(latents, grain, steps), steps, states).sample - wanted).square().mean()
    return loss


def train(
    latents: Tensor, captions: list[str], rounds: Sequence[tuple[int, float]], begun: tuple[Any, Any] | None = None
) -> tuple[Any, Any]:
    """Train on scaled latents and their captions, in rounds of (steps, rate), and return UNet and text encoder."""
    unet, text_encoder = begun or fresh()
    tokens, empty = token_table(captions), token_table([""])[0]
    lengths = (tokens != empty[-1]).sum(1) + 1  # with the mark of the end
    order = lengths.argsort()
    noise = noise_scheduler()
    for steps, rate in rounds:
        pace = Pace("base model", [*unet.parameters(), *text_encoder.parameters()], steps, rate, keep=0.99)
        for step in range(steps):
            chosen = order[_near(len(order), BATCH)]
            whole = step >= WHOLE * steps or step % 4 == 0
            length = LENGTH if whole else int(lengths[chosen].max())  # padding says nothing, and costs time
            pace.step(step, loss_of(unet, text_encoder, latents[chosen], tokens[chosen, :length], empty[:length], noise))
        pace.finish()
    return unet.eval(), text_encoder.eval()


def _near(count: int, batch: int) -> Tensor:
    """Return random places that are not far from each other: captions of about the same length."""
    width = min(count, 40 * batch)
    return torch.randint(count - width + 1, (1,)) + torch.randint(width, (batch,))
