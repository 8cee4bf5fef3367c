"""The images that were made, in a folder that people keep: each a PNG with its generation text; the oldest go when there are too many."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from threading import Lock

from PIL import Image, UnidentifiedImageError

from ....errors import ToolError
from ....hosts.protocol import GeneratedImage

LIMIT = 1000  # images that are kept
NUMBERED = re.compile(r"(\d{5,})-.*\.png")
Save = Callable[[GeneratedImage, Path], None]
UNREADABLE = (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError)  # what a bad image ends with


class ImageFolder:
    """A folder of numbered images."""

    def __init__(self, folder: Path, save: Save) -> None:
        self.folder = folder
        self._save = save
        self._lock = Lock()

    def add(self, image: GeneratedImage, kind: str = "") -> Path:
        """Write an image and return where it is. Raises HostError if that fails."""
        with self._lock:
            known = self.newest()
            number = 1 + int(NUMBERED.fullmatch(known[0].name)[1]) if known else 0  # type: ignore[index]
            path = self.folder / f"{number:05}-{kind}{image.seed}.png"
            self._save(image, path)
            for old in self.newest()[LIMIT:]:
                old.unlink(missing_ok=True)
            return path

    def newest(self, count: int | None = None) -> list[Path]:
        """Return the images, the newest first."""
        try:
            names = [name for name in os.listdir(self.folder) if NUMBERED.fullmatch(name)]
        except OSError:
            return []
        names.sort(key=lambda name: int(name.partition("-")[0]), reverse=True)
        return [self.folder / name for name in names[:count]]

    def path(self, name: str) -> Path:
        """Return the file of a name that :meth:`newest` gave. Raises ToolError for any other."""
        path = self.folder / name
        if not NUMBERED.fullmatch(name) or not path.is_file():
            raise ToolError("this image is not in the folder of images any more")
        return path


def text_of(path: Path) -> str:
    """Return the generation text inside an image; empty if it has none. Raises ToolError for a file that is no image."""
    try:
        return _text(path, path.stat().st_mtime_ns)
    except UNREADABLE as error:
        raise ToolError(f"{path.name} cannot be read as an image ({type(error).__name__}); give a PNG with its generation text") from error


@lru_cache(maxsize=512)
def _text(path: Path, _changed: int) -> str:
    with Image.open(path) as image:
        found = image.info.get("parameters") or image.getexif().get_ifd(0x8769).get(0x9286) or ""
        image.load()  # a PNG may have its texts at its end
        found = getattr(image, "text", {}).get("parameters") or found
    if isinstance(found, bytes):  # a JPEG's comment, as the webui writes it
        found = found.removeprefix(b"UNICODE\0").decode("utf-16-be", "replace")
    return str(found)


def thumbnail(path: Path, side: int) -> str:
    """Return a small copy as an address that holds the image itself; empty for a file that is no image."""
    try:
        return _thumbnail(path, path.stat().st_mtime_ns, side)
    except UNREADABLE:
        return ""


@lru_cache(maxsize=512)
def _thumbnail(path: Path, _changed: int, side: int) -> str:
    with Image.open(path) as image:
        image.draft("RGB", (side, side))
        image.thumbnail((side, side))
        return as_address(image)


def as_address(image: Image.Image) -> str:
    """Return an image as an address that holds it."""
    kept = BytesIO()
    image.convert("RGB").save(kept, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(kept.getvalue()).decode()}"
