"""The base model families. A new one is a file of this folder and an entry here; the commonest stands first among those that look alike."""

from __future__ import annotations

from collections.abc import Mapping

from ..family import UNET_PREFIX, Family
from . import flux, sd1, sd2, sd3, sdxl, sdxl_refiner

__all__ = ["FAMILIES", "UNET_PREFIX"]

_MODULES = (sd1, sd2, sdxl, sdxl_refiner, sd3, flux)

FAMILIES: Mapping[str, Family] = {module.FAMILY.id: module.FAMILY for module in _MODULES}
