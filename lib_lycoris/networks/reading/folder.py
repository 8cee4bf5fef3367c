"""A folder that stands for a network: what PEFT's and diffusers' save_pretrained and save_lora_weights leave."""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path

from ...errors import NetworkFormatError

SAFETENSORS = ".safetensors"
PICKLES = (".pt", ".ckpt", ".bin", ".pth")
EXTENSIONS = (SAFETENSORS, *PICKLES)
SAVED = ("adapter_model", "pytorch_lora_weights")  # what PEFT and diffusers call the network in a folder of its own
STEMS = (*SAVED, "lora_weights", "model")


def file_of(path: Path) -> Path:
    """Return the file that a path stands for: of a folder the network in it. Raises NetworkFormatError."""
    return network_in(path) if path.is_dir() else path


def files_below(folder: Path, endings: Container[str] = EXTENSIONS) -> list[Path]:
    """Return the files with these endings in a folder and its subfolders; hidden ones are left out, and folders that cannot be listed."""
    found = (Path(place, name) for place, _, names in os.walk(folder) for name in names if not name.startswith("."))
    wanted = (path for path in found if path.suffix.lower() in endings)
    return sorted(path for path in wanted if path.is_file() or not path.exists())  # a link that leads nowhere is told by who reads it


def network_in(folder: Path) -> Path:
    """Return the network file in a folder. Raises NetworkFormatError saying which file to give where that is not clear."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in EXTENSIONS)
    for stem in STEMS:
        for ending in EXTENSIONS:  # the safetensors file first, where both are there
            if found := next((file for file in files if file.stem == stem and file.suffix.lower() == ending), None):
                return found
    if len(files) == 1:
        return files[0]
    if files:
        raise NetworkFormatError(f"{folder.name} is a folder of {len(files)} files; give the one that is meant, such as {files[0].name}")
    inner = sorted(f"{sub.name}/{file.name}" for sub in folder.iterdir() if sub.is_dir() for file in sub.glob("adapter_model.*"))
    hint = f"; it holds one for each component, give each as a network of its own: {', '.join(inner[:4])}" if inner else ""
    raise NetworkFormatError(f"{folder.name} is a folder without a network file{hint}")
