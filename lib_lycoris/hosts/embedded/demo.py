"""The demo model that people meet first: a trained toy that comes with the package."""

from __future__ import annotations

import torch

from ...demo import CHECKPOINT
from .models import LoadedModel, load_model

NAME = CHECKPOINT.stem
EXAMPLE = "a red circle on the left, blue background"
ABOUT = 'Demo: it draws shapes, like "a red circle on the left, blue background"; your own: python3 run.py --ckpt FILE --networks FOLDER.'


def demo_model(device: torch.device) -> LoadedModel:
    """Load the toy, in single precision on every device; raise HostError if its file is missing."""
    return load_model(CHECKPOINT, device, torch.float32)
