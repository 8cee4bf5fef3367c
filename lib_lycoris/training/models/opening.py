"""A checkpoint or a folder -> the base model that is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from ...errors import ToolError
from ...hosts.embedded.demo import demo_model
from ...hosts.embedded.models import first_line, load_model
from ...hosts.embedded.pipelines import CANNOT_READ, refuse_pickles, refuse_unknown
from ...plain_json import read_json
from .base import TrainedModel
from .flux import Flux
from .stable_diffusion import StableDiffusion
from .transformer import FlowTransformer
from .weights import fill
from .z_image import ZImage

INDEX = "model_index.json"
TRANSFORMERS: Mapping[str, type[FlowTransformer]] = {"FluxPipeline": Flux, "ZImagePipeline": ZImage}  # class of the folder's pipeline
UNETS = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
TRAINED = f"SD 1, SD 2, SDXL, {', '.join(kind.label for kind in TRANSFORMERS.values())}"


def open_model(settings: Any, device: torch.device, dtype: torch.dtype) -> TrainedModel:
    """Open the base model that settings name, the demo model without one. Raises HostError or ToolError."""
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()  # advice to programmers; errors still come as exceptions
    transformers.utils.logging.set_verbosity_error()
    path = settings.pretrained_model_name_or_path
    kind = TRANSFORMERS.get(_pipeline(path)) if path and path.is_dir() else None
    made = _unet(settings, device, dtype) if kind is None else _transformer(kind, settings, device, dtype)
    for part in (made.vae(), *made.parts().values(), *made.text_encoders()):
        part.requires_grad_(False)
        part.eval()
    return made


def _pipeline(folder: Path) -> str:
    """Return the class of a folder's pipeline. Raises ToolError for a folder of another kind, or a model that is not trained here."""
    try:
        name = str(read_json(folder / INDEX)["_class_name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolError(f"{folder.name} has no {INDEX} that can be read, so it is no model in diffusers' layout") from error
    if name not in TRANSFORMERS and name not in UNETS:
        raise ToolError(f"{folder.name} is a {name}, which is not trained here; there are {TRAINED}")
    return name


def _unet(settings: Any, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
    path = settings.pretrained_model_name_or_path
    if settings.transformer:
        raise ToolError("--transformer is for models that have one; give their diffusers folder as --pretrained_model_name_or_path")
    model = load_model(path, device, dtype) if path else demo_model(device)
    if settings.vae:
        model.pipe.vae = _vae(settings.vae).to(device)
    return StableDiffusion(model, settings)


def _vae(folder: Path) -> Any:
    """Return the VAE of a folder. Raises ToolError for anything else."""
    if not folder.is_dir():
        raise ToolError(f"--vae takes a folder in diffusers' layout, with config.json and its weights, but {folder} is none")
    refuse_pickles(folder)
    try:
        return diffusers.AutoencoderKL.from_pretrained(str(folder), local_files_only=True, use_safetensors=True)
    except (*CANNOT_READ, SafetensorError) as error:
        raise ToolError(f"diffusers cannot load the VAE {folder.name}: {first_line(error)}") from error


def _transformer(kind: type[FlowTransformer], settings: Any, device: torch.device, dtype: torch.dtype) -> FlowTransformer:
    path = settings.pretrained_model_name_or_path
    refuse_unknown(path)
    try:
        pipe = diffusers.DiffusionPipeline.from_pretrained(str(path), torch_dtype=dtype, local_files_only=True, use_safetensors=True)
    except (*CANNOT_READ, SafetensorError) as error:
        raise ToolError(f"diffusers cannot load {path.name}: {first_line(error)}") from error
    if settings.vae:
        pipe.vae = _vae(settings.vae)
    if settings.transformer:
        fill(pipe.transformer, settings.transformer, kind.family)
    return kind(pipe, path.name, settings, device)
