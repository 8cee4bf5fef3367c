"""One demo network after another, trained with lycoris-lora on the checkpoint as it was saved."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...hosts.embedded.models import LoadedModel, load_model
from ...networks.hashes import model_hash
from .autoencoder import encode
from .base import loss_of, noise_scheduler, token_table
from .recipes import Recipe
from .scenes import Scene, pixels, random_scene
from .schedule import Pace

SEED, BATCH, SCENES = 7, 16, 480
HERE = Path(__file__).resolve().parent


def train(name: str, recipe: Recipe, checkpoint: Path, folder: Path, steps: int | None = None) -> Path:
    """Train one network and write it; the base model's weights are never changed."""
    torch.manual_seed(SEED)
    random.seed(SEED)  # DyLoRA draws its ranks from it
    model = load_model(checkpoint, torch.device("cpu"), torch.float32)
    scenes, latents, tokens = _lessons(model, recipe)
    network = _network(model, recipe)
    pace = Pace(name, network.parameters(), steps or recipe.steps, recipe.rate, keep=0.97)
    empty, noise = token_table([""])[0], noise_scheduler()
    unet, text_encoder = model.pipe.unet.train(), model.pipe.text_encoder
    for step in range(pace.steps):
        chosen = torch.randint(len(latents), (BATCH,))
        pace.step(step, loss_of(unet, text_encoder, latents[chosen], tokens[chosen], empty, noise))
    pace.finish()
    path = folder / f"{name}.safetensors"
    network.save_weights(str(path), torch.float16, _metadata(name, recipe, scenes, checkpoint))
    more = {f"bundle_emb.{recipe.word}.string_to_param.*": _meaning(model, recipe.meaning)} if recipe.word else {}
    _seal(path, more)
    return path


def _lessons(model: LoadedModel, recipe: Recipe) -> tuple[list[Scene], Tensor, Tensor]:
    """Return scenes, the latents of what the network shall draw for them, and their captions' tokens."""
    rng = Random(SEED)
    scenes = [random_scene(rng) for _ in range(SCENES)]
    pictures = torch.from_numpy(pixels([recipe.style(scene) for scene in scenes]))
    return scenes, encode(model.pipe.vae, pictures), token_table([scene.caption for scene in scenes])


def _network(model: LoadedModel, recipe: Recipe) -> Any:
    from lycoris.kohya import create_network

    for part in (model.pipe.unet, model.pipe.text_encoder):
        part.requires_grad_(False)
    options = dict(recipe.arguments)
    if options["preset"].endswith(".toml"):
        options["preset"] = str(HERE / options["preset"])
    network = create_network(
        1.0, recipe.dim, recipe.alpha, model.pipe.vae, _named(model.pipe.text_encoder), model.pipe.unet, warn_on_unmatched=False,
        algo=recipe.algo, **options,
    )  # fmt: skip
    network.apply_to(None, None, apply_text_encoder=True, apply_unet=True)
    network.requires_grad_(True)
    return network


def _named(text_encoder: nn.Module) -> nn.Module:
    """Return the text encoder so that its layers' names begin with text_model, as newer transformers leave it out."""
    if hasattr(text_encoder, "text_model"):
        return text_encoder
    wrapper = nn.Module()
    wrapper.add_module("text_model", text_encoder)
    return wrapper


def _metadata(name: str, recipe: Recipe, scenes: list[Scene], checkpoint: Path) -> dict[str, str]:
    tags = Counter(part.strip() for scene in scenes for part in scene.caption.split(",") if part.strip())
    if recipe.word:
        tags[recipe.word] = len(scenes)
    arguments = {key: str(value) for key, value in {"algo": recipe.algo, **recipe.arguments}.items()}
    return {
        "ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps(arguments), "ss_network_dim": str(recipe.dim),
        "ss_network_alpha": str(recipe.alpha), "ss_base_model_version": "sd_v1", "ss_output_name": name, "ss_v2": "False",
        "ss_sd_model_name": checkpoint.name, "ss_sd_model_hash": model_hash(checkpoint)[:10], "ss_learning_rate": str(recipe.rate),
        "ss_steps": str(recipe.steps), "ss_seed": str(SEED), "ss_resolution": "(64, 64)", "ss_num_train_images": str(len(scenes)),
        "ss_tag_frequency": json.dumps({"1_scenes": dict(tags.most_common(40))}), "ss_training_comment": recipe.effect,
        "modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.title": name, "modelspec.description": recipe.effect,
    }  # fmt: skip


def _seal(path: Path, more: dict[str, Tensor]) -> None:
    """Write a file again with more tensors and with the hash that programs compute; LyCORIS' own is of something else."""
    with safe_open(str(path), "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    tensors.update({key: tensor.to(torch.float16) for key, tensor in more.items()})
    save_file(tensors, str(path), metadata)
    save_file(tensors, str(path), {**metadata, "sshs_model_hash": model_hash(path)})
    path.chmod(0o644)


def _meaning(model: LoadedModel, words: str) -> Tensor:
    """Return the vectors of words that the model knows, (count, width): what a new word in their place will mean."""
    count = len(words.split())
    meant = token_table([words])[0, 1 : 1 + count]
    vectors: Tensor = model.pipe.text_encoder.get_input_embeddings().weight[meant].detach().clone()
    return vectors
