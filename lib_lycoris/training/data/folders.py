"""Where the images of a training are: folders as sd-scripts has them, or one plain folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ToolError
from ...wording import counted
from .subset import Dataset, Subset, configured

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jxl")
COUNTED = re.compile(r"(\d+)_(.*)")  # 10_a red car
METADATA = "metadata.jsonl"


def datasets_of(settings: Any, size: int) -> list[Dataset]:
    """Return what the settings ask to train on; ``size``: the side of an image that suits the model. Raises ToolError."""
    if settings.dataset_config:
        from .dataset_file import read_datasets

        return read_datasets(settings.dataset_config, settings.values, size)
    subsets = subsets_in(settings.train_data_dir, settings.values)
    if settings.reg_data_dir:
        subsets += subsets_in(settings.reg_data_dir, settings.values, regularisation=True)
    return [dataset(subsets, settings.values, size)]


def dataset(subsets: Sequence[Subset], values: Mapping[str, Any], size: int) -> Dataset:
    """Return subsets with the size of images and batches that options ask for."""
    names = ("enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale")
    given = {name: values[name] for name in names if values.get(name) is not None}
    return Dataset(tuple(subsets), resolution_of(values.get("resolution"), size), int(values.get("train_batch_size") or 1), **given)


def resolution_of(text: Any, size: int) -> tuple[int, int]:
    """Return (width, height) of "512", "512,768", a number or a pair of them. Raises ToolError."""
    if text is None:
        return size, size
    parts = text if isinstance(text, (list, tuple)) else str(text).replace("x", ",").split(",")
    try:
        numbers = [int(part) for part in parts]
        width, height = (numbers * 2)[:2] if len(numbers) == 1 else numbers
    except ValueError:
        raise ToolError(f"resolution is {text!r}, but a side such as 512 or two such as 512,768 are expected") from None
    if min(width, height) < 8 or width % 8 or height % 8:
        raise ToolError(f"resolution is {text!r}, but multiples of 8 are expected")
    return width, height


def subsets_in(folder: Path, values: Mapping[str, Any], regularisation: bool = False) -> list[Subset]:
    """Return the subsets of a folder: one for each N_word in it, else the folder itself. Raises ToolError where it has no images."""
    if not folder.is_dir():
        raise ToolError(f"there is no folder {folder}; give a folder of images")
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        match = COUNTED.fullmatch(path.name)
        if match and images_in(path):
            found.append(Subset(path, int(match[1]), regularisation, match[2].strip()))
    if not found and images_in(folder):
        found = [Subset(folder, int(values.get("dataset_repeats") or 1), regularisation)]
    if not found:
        raise ToolError(f"{folder} holds no images ({', '.join(ENDINGS)}), nor folders named N_word that do")
    found = [Subset(**{**one.__dict__, "metadata": metadata_in(one.folder, values)}) for one in found]
    return [configured(one, values) for one in found]


def left_out(settings: Any) -> list[str]:
    """Return the folders with images in those that settings name which are not trained on: beside N_word folders, others are not read."""
    found = []
    for folder in (settings.train_data_dir, settings.reg_data_dir):
        if folder and not settings.dataset_config:
            used = {subset.folder for subset in subsets_in(folder, settings.values)}
            inside = [path for path in sorted(folder.iterdir()) if path.is_dir()]
            counts = {path.name: len(images_in(path)) for path in (folder, *inside) if path not in used}
            found += [f"{name} ({counted(count, 'image')})" for name, count in counts.items() if count]
    return found


def metadata_in(folder: Path, values: Mapping[str, Any]) -> Path | None:
    """Return the file of captions that belongs to a folder: the one that was given, or metadata.jsonl in it."""
    if values.get("in_json"):
        return Path(values["in_json"])
    beside = folder / METADATA
    return beside if beside.is_file() else None


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith("."))
