"""A transformer's weights from one file, as its authors or webuis have it: each tensor goes where the family's table says."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ...errors import ToolError
from ...models.families import UNET_PREFIX
from ...patching import Patcher
from ...tools.files.checkpoints.scaled import is_scale

PREFIXES = (f"model.{UNET_PREFIX}", UNET_PREFIX)


@torch.no_grad()
def fill(transformer: nn.Module, path: Path, family: str) -> None:
    """Give a transformer all weights of a file. Raises ToolError where the file is of another model, or lacks some.

    Names may be the original ones, with or without a webui's prefix, or those of diffusers.
    """
    names = Patcher({"transformer": transformer}, family).names
    live = dict(transformer.named_parameters())
    left = {name: parameter.numel() for name, parameter in live.items()}
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            for key in file.keys():  # noqa: SIM118 - no mapping
                if is_scale(key):
                    raise ToolError(f"{path.name} keeps its weights scaled ({key}), which is not trained on; use its bf16 version")
                bare = next((key[len(prefix) :] for prefix in PREFIXES if key.startswith(prefix)), key)
                pieces = [(bare, slice(None), slice(None))] if bare in live else [
                    (f"{piece.module}.{piece.leaf}".removeprefix("transformer."), piece.rows, piece.live_rows)
                    for piece in names.pieces(UNET_PREFIX + bare)
                ]  # fmt: skip
                if not pieces:
                    raise ToolError(f"{path.name}: the model has no {key}; give a file of the same model")
                tensor = file.get_tensor(key)
                for name, rows, live_rows in pieces:
                    place, part = live[name][live_rows], tensor[rows]
                    if place.shape != part.shape:
                        raise ToolError(
                            f"{path.name}: {key} is {tuple(tensor.shape)}, which does not fit {name}, {tuple(live[name].shape)}"
                        )
                    place.copy_(part)
                    left[name] -= place.numel()
    except (OSError, SafetensorError) as error:
        raise ToolError(f"{path.name} cannot be read as safetensors (is the download complete?): {error}") from error
    missing = next((name for name, count in left.items() if count), None)
    if missing:
        raise ToolError(f"{path.name} lacks weights of the model, {missing} among them")
