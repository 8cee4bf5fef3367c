"""The images that are trained on: read once for size, shape and content, before anything is spent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ...errors import ToolError
from ...records import dataclass
from ..steps.draws import chooser
from .buckets import Fit, fit
from .captions import listed_captions, read_caption
from .folders import images_in
from .subset import Dataset, Subset

CHUNK = 1 << 20


@dataclass(frozen=True)
class Item:
    """One image of a dataset."""

    path: Path
    digest: str  # of the file's content
    size: tuple[int, int]  # as a viewer shows it: width, height
    has_alpha: bool
    caption: str
    subset: Subset
    fit: Fit
    dataset: int = 0


@dataclass
class Catalogue:
    """All images, and what is to be said about them before training."""

    datasets: Sequence[Dataset]
    items: list[Item] = field(default_factory=list)
    validation: list[Item] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)  # name, why
    without_caption: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # folders with images that are not trained on


def catalogue(datasets: Sequence[Dataset], tell: Callable[[int, int], None], share: float = 0.0, seed: int = 0) -> Catalogue:
    """Look at every image; broken ones are left out and named. ``share``: what is kept for validation.

    Raises ToolError where no image is left.
    """
    found = Catalogue(datasets)
    work = [(number, subset, path) for number, data in enumerate(datasets) for subset in data.subsets for path in images_in(subset.folder)]
    seen: dict[str, Path] = {}
    listed: dict[Path | None, dict[str, str]] = {}
    for count, (number, subset, path) in enumerate(work):
        tell(count, len(work))
        if subset.metadata not in listed:
            listed[subset.metadata] = listed_captions(subset.metadata)
        item = _item(path, subset, number, datasets[number], listed[subset.metadata], found)
        if item is None:
            continue
        if item.digest in seen and seen[item.digest].parent == path.parent:
            found.duplicates.append((path.name, seen[item.digest].name))
        seen.setdefault(item.digest, path)
        found.items.append(item)
    tell(len(work), len(work))
    _split_off(found, share, seed)
    if not any(not item.subset.regularisation for item in found.items):
        reasons = "; ".join(f"{name}: {why}" for name, why in found.broken[:3])
        raise ToolError(f"no image is left to train on ({reasons or 'all are for regularisation or validation'})")
    return found


def _item(path: Path, subset: Subset, number: int, data: Dataset, listed: dict[str, str], found: Catalogue) -> Item | None:
    try:
        with Image.open(path) as image:
            image.load()  # all of it: a file that ends in its middle has a whole header
            turned = image.getexif().get(0x0112, 1) >= 5
            size = (image.height, image.width) if turned else (image.width, image.height)
            alpha = "A" in image.getbands() or "transparency" in image.info
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        found.broken.append((path.name, " ".join(str(error).replace(str(path), path.name).split()) or type(error).__name__))
        return None
    caption = read_caption(path, subset, listed)
    if not caption:
        found.without_caption.append(path.name)
    return Item(path, digest_of(path), size, alpha, caption or subset.class_tokens, subset, fit(size, data), number)


def digest_of(path: Path) -> str:
    """Return a hash of a file's content."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _split_off(found: Catalogue, share: float, seed: int) -> None:
    """Move a share of the images, chosen by seed and content, to the validation set."""
    own = [item for item in found.items if not item.subset.regularisation]
    count = min(round(share * len(own)), len(own) - 1)
    if count < 1:
        return
    order = sorted(own, key=lambda item: chooser(seed, "validation", item.digest).random())
    chosen = {id(item) for item in order[:count]}
    found.validation = [item for item in found.items if id(item) in chosen]
    found.items = [item for item in found.items if id(item) not in chosen]
