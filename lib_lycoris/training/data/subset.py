"""One folder of images with what is done to them: the unit in which sd-scripts describes data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ...records import dataclass


@dataclass(frozen=True)
class Subset:
    """Images of one folder, and how they and their captions are used."""

    folder: Path
    repeats: int = 1
    regularisation: bool = False
    class_tokens: str = ""  # the caption of images without one
    metadata: Path | None = None  # a JSON or JSON-lines file of captions
    caption_extension: str | None = None
    caption_separator: str = ","
    shuffle_caption: bool = False
    keep_tokens: int = 0
    keep_tokens_separator: str | None = None
    secondary_separator: str | None = None
    enable_wildcard: bool = False
    caption_prefix: str | None = None
    caption_suffix: str | None = None
    trigger_word: str | None = None
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    caption_tag_dropout_rate: float = 0.0
    flip_aug: bool = False
    random_crop: bool = False
    alpha_mask: bool = False

    @property
    def fixed_captions(self) -> bool:
        """Tell whether each image has one caption for the whole run."""
        changing = (self.shuffle_caption, self.enable_wildcard, self.caption_tag_dropout_rate)
        return not any(changing)


SHARED = frozenset(field.name for field in fields(Subset)) - {"folder", "repeats", "regularisation", "class_tokens", "metadata"}


@dataclass(frozen=True)
class Dataset:
    """Subsets whose images make batches together: one resolution, one size of a batch."""

    subsets: tuple[Subset, ...]
    resolution: tuple[int, int]  # width, height in pixels
    batch_size: int
    enable_bucket: bool = True
    min_bucket_reso: int | None = None
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False


def configured(subset: Subset, values: Mapping[str, Any]) -> Subset:
    """Return a subset with those of the values that a subset has."""
    return replace(subset, **{name: values[name] for name in SHARED if values.get(name) is not None})
