"""Each file that is written is read by our own engine, and what it does is compared with the training's own forward."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import LycorisError
from ..networks import load
from ..patching import Activation, Patcher
from .algorithms.trained_network import TrainedNetwork
from .models.base import TrainedModel
from .steps.draws import normal

STEP, WORDS, SIDE = 500, "a test of what was written", 8  # latents of 8 x 8 numbers: the weights are what is compared
# how far answers may be apart by the model's dtype: a share of what the network changes, or of the answer, whichever is more
TOLERANCE = {torch.float32: (1e-5, 1e-5), torch.bfloat16: (5e-2, 2e-2), torch.float16: (2e-2, 4e-3)}


class SelfCheckFailed(LycorisError):
    """A file does not do what was trained."""


@torch.no_grad()
def check_file(path: Path, model: TrainedModel, network: TrainedNetwork, dtype: torch.dtype) -> dict[str, float]:
    """Return how far the file's forward is from the training's, relative to what the network changes.

    Raises SelfCheckFailed where a key is left over or the forwards differ.
    """
    with network.rounded(dtype):
        trained = answer(model)
    with network.off():
        plain = answer(model)
        patcher = Patcher(model.parts(), model.family)
        loaded = load(path, patcher.base)
        if loaded.skipped or loaded.coverage:
            first = loaded.skipped[0] if loaded.skipped else None
            reason = f"{first.key}: {first.reason}" if first else loaded.coverage
            raise SelfCheckFailed(f"{path.name} was written, but not all of it can be read again ({reason}); please report it")
        patcher.apply([Activation(loaded, lambda _: 1.0)])
        ours = answer(model)
        patcher.restore()
    changed = float((trained - plain).abs().max())
    apart = float((trained - ours).abs().max())
    of_change, of_answer = TOLERANCE[model.dtype]
    largest = float(plain.abs().max())
    if not apart <= max(of_change * changed, of_answer * largest):
        raise SelfCheckFailed(
            f"{path.name} does not do what was trained: its answer is {apart:.2g} apart from the training's, which changes {changed:.2g}; "
            "please report it with the settings"
        )
    return {"changed": changed, "apart": apart, "answer": largest, "layers": float(len(network.entries))}


def answer(model: TrainedModel) -> Tensor:
    """Return the denoiser's answer to a noise and a text that are always the same."""
    side = SIDE * max(1, model.latent_shape((64, 64))[1] // SIDE)
    shape = (1, model.latent_shape((64, 64))[0], side, side)
    noisy = normal(shape, "self-check").to(model.device, model.dtype)
    texts = model.texts([WORDS]).to(model.device, model.dtype)
    steps = torch.tensor([STEP], device=model.device)
    return model.predict(noisy, steps, texts, model.example_sizes()).float()
