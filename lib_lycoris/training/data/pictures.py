"""An image file -> pixels of its bucket's size, and the mask that its alpha channel is."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...records import dataclass
from .items import Item


@dataclass(frozen=True)
class Cut:
    """Where an image is cut out of its resized self, and whether it is mirrored."""

    left: int
    top: int
    flipped: bool = False


@dataclass(frozen=True)
class Picture:
    """What is trained on of one image."""

    pixels: Tensor  # (3, height, width), from -1 to 1
    mask: Tensor | None  # (1, height, width), from 0 to 1


def cut_of(item: Item, choose: Random) -> Cut:
    """Return the cut of an image at one place of the run: the middle, unless its subset asks for random ones."""
    spare_x = item.fit.resized[0] - item.fit.bucket[0]
    spare_y = item.fit.resized[1] - item.fit.bucket[1]
    flipped = item.subset.flip_aug and choose.random() < 0.5
    if item.subset.random_crop:
        return Cut(choose.randint(0, spare_x), choose.randint(0, spare_y), flipped)
    return Cut(spare_x // 2, spare_y // 2, flipped)


def read_picture(item: Item, cut: Cut) -> Picture:
    """Read an image, resize it by Lanczos and cut it; what is transparent is white, and not in the mask."""
    with Image.open(item.path) as opened:
        upright = ImageOps.exif_transpose(opened) or opened
        image = upright.convert("RGBA" if item.has_alpha else "RGB")
    if image.size != item.fit.resized:
        image = image.resize(item.fit.resized, Image.Resampling.LANCZOS)
    width, height = item.fit.bucket
    image = image.crop((cut.left, cut.top, cut.left + width, cut.top + height))
    if cut.flipped:
        image = ImageOps.mirror(image)
    mask = None
    if item.has_alpha:
        alpha = image.getchannel("A")
        if item.subset.alpha_mask:
            mask = torch.from_numpy(np.array(alpha, dtype=np.float32) / 255)[None]
            image = image.convert("RGB")  # the colours below count for nothing
        else:
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image).convert("RGB")
    pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()
    return Picture(pixels, mask)
