"""The base model families. A new one is a file of this folder and an entry here; the commonest stands first among those that look alike."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

from ..family import UNET_PREFIX, Blocks, Component, Family
from ..naming import TableNames
from . import (
    anima,
    animatediff,
    auraflow,
    bria,
    chroma,
    cogvideox,
    cogview4,
    cosmos,
    ernie_image,
    flux,
    flux2,
    flux3,
    glm_image,
    hidream,
    hunyuan,
    hunyuan_dit,
    ideogram4,
    kandinsky5,
    krea2,
    longcat_image,
    ltx,
    ltx2,
    lumina2,
    minimax_h3,
    mochi,
    omnigen,
    ovis_image,
    pid,
    pixart,
    qwen_image,
    qwen_image_21,
    sana,
    sd1,
    sd2,
    sd3,
    sdxl,
    sdxl_refiner,
    stable_cascade,
    wan,
    z_image,
)

__all__ = ["FAMILIES", "PIPELINE_PARTS", "UNET_PREFIX", "UNKNOWN"]

_MODULES = (
    sd1, sd2, sdxl, sdxl_refiner, flux, sd3, chroma, flux2, qwen_image, qwen_image_21, z_image, wan, anima, krea2, lumina2,
    auraflow, hidream, hunyuan, longcat_image, bria, ovis_image, flux3, ltx, pixart, sana,
    cogview4, ltx2, glm_image, omnigen, ernie_image, ideogram4, kandinsky5, cosmos, cogvideox, mochi, minimax_h3,
    hunyuan_dit, stable_cascade, animatediff, pid,
)  # fmt: skip


def _declared(module: ModuleType) -> tuple[Family, ...]:
    """Give what a file declares: one family, or several of the same layers in other widths."""
    return module.FAMILIES if hasattr(module, "FAMILIES") else (module.FAMILY,)


UNKNOWN = Family(
    id="unknown",
    label="an unknown base model",
    short="unknown",
    components=(Component("unet", "", "", "", lambda: (), TableNames),),
    blocks=Blocks({}, last=(), first=None),
    kohya_native=False,
)


class _Families(dict[str, Family]):
    """The known families; the unknown one is not among them, but can be asked for."""

    def __missing__(self, key: str) -> Family:
        if key == UNKNOWN.id:
            return UNKNOWN
        raise KeyError(key)


FAMILIES: Mapping[str, Family] = _Families({family.id: family for module in _MODULES for family in _declared(module)})

PIPELINE_PARTS = tuple(dict.fromkeys(component.pipeline for family in FAMILIES.values() for component in family.components))
"""What diffusers calls the parts of a pipeline that networks change: unet, transformer, prior, text_encoder, ..."""
