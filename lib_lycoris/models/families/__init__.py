"""The base model families. A new one is a file of this folder and an entry here; the commonest stands first among those that look alike."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from ..family import UNET_PREFIX, Family
from . import anima, chroma, flux, flux2, krea2, lumina2, qwen_image, qwen_image_21, sd1, sd2, sd3, sdxl, sdxl_refiner, wan, z_image

__all__ = ["FAMILIES", "UNET_PREFIX"]

_MODULES = (
    sd1, sd2, sdxl, sdxl_refiner, flux, sd3, chroma, flux2, qwen_image, qwen_image_21, z_image, wan, anima, krea2, lumina2,
)  # fmt: skip


def _declared(module: ModuleType) -> tuple[Family, ...]:
    """Give what a file declares: one family, or several of the same layers in other widths."""
    return module.FAMILIES if hasattr(module, "FAMILIES") else (module.FAMILY,)


FAMILIES: Mapping[str, Family] = {family.id: family for module in _MODULES for family in _declared(module)}
