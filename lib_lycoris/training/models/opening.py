"""A checkpoint or a folder -> the base model that is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from ...hosts.embedded.demo import demo_model
from ...hosts.embedded.models import load_model
from .base import TrainedModel
from .stable_diffusion import StableDiffusion


def open_model(settings: Any, device: torch.device, dtype: torch.dtype) -> TrainedModel:
    """Open the base model that settings name, the demo model without one. Raises HostError."""
    diffusers.utils.logging.set_verbosity_error()  # advice to programmers; errors still come as exceptions
    transformers.utils.logging.set_verbosity_error()
    path = settings.pretrained_model_name_or_path
    model = load_model(Path(path), device, dtype) if path else demo_model(device)
    if settings.vae:
        model.pipe.vae = diffusers.AutoencoderKL.from_pretrained(str(settings.vae), local_files_only=True).to(device)
    for part in (model.pipe.vae, *model.parts().values()):
        part.requires_grad_(False)
        part.eval()
    return StableDiffusion(model, settings)
