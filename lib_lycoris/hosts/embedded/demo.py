"""The demo model that people meet first: a trained toy that comes with the package, and where our own data goes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from ...demo import CHECKPOINT
from .models import LoadedModel, load_model

NAME = CHECKPOINT.stem
ABOUT = 'A toy that draws shapes, such as "a red circle on the left, blue background"; start with --ckpt FILE for a real model.'


def demo_model(device: torch.device) -> LoadedModel:
    """Load the toy, in single precision on every device; raise HostError if its file is missing."""
    return load_model(CHECKPOINT, device, torch.float32)


def own_networks(data: Path) -> Path:
    """Return where the app's tools put networks, in a data folder; it may not be there yet."""
    return data / "networks"


def data_folder() -> Path:
    """Return the platform's folder for data that a program can make again."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "sd-webui-lycoris"
