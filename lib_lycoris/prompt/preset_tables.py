"""The presets that come with us, as data: a name, the layout's count, and what is on.

The first group keeps the names and values of the block weight extension, so that prompts mean the same without it.
SDXL-* use the 20 blocks, which fit LoRA and LyCORIS files alike: IN00-IN05 and OUT03-OUT08 are shallow, the rest deep.
"""

from __future__ import annotations

from ..models.blocks import LAYOUTS
from .elements import expand_blocks

# name, count of the layout, blocks that are on, their weight
_CLASSIC = (
    ("NONE", 17, "", 1),
    ("ALL", 17, "BASE IN01-OUT11", 1),
    ("INS", 17, "BASE IN01-IN04", 1),
    ("IND", 17, "BASE IN05-IN08", 1),
    ("INALL", 17, "BASE IN01-IN08", 1),
    ("MIDD", 17, "BASE IN05-OUT06", 1),
    ("OUTD", 17, "BASE OUT03-OUT06", 1),
    ("OUTS", 17, "BASE OUT07-OUT11", 1),
    ("OUTALL", 17, "BASE OUT03-OUT11", 1),
    ("ALL0.5", 17, "BASE IN01-OUT11", 0.5),
    ("FLUXALL", 61, "CLIP-OUT", 1),
)
_NAMED = (
    ("SDXL-NONE", 20, "", 1),
    ("SDXL-ALL", 20, "BASE IN00-OUT08", 1),
    ("SDXL-ALL0.5", 20, "BASE IN00-OUT08", 0.5),
    ("SDXL-TEXT", 20, "BASE", 1),
    ("SDXL-UNET", 20, "IN00-OUT08", 1),
    ("SDXL-INS", 20, "BASE IN00-IN05", 1),
    ("SDXL-IND", 20, "BASE IN06-IN08", 1),
    ("SDXL-INALL", 20, "BASE IN00-IN08", 1),
    ("SDXL-MIDD", 20, "BASE IN06-OUT02", 1),
    ("SDXL-OUTD", 20, "BASE OUT00-OUT02", 1),
    ("SDXL-OUTS", 20, "BASE OUT03-OUT08", 1),
    ("SDXL-OUTALL", 20, "BASE OUT00-OUT08", 1),
    # B-LoRA (arXiv 2403.14572) finds the content of an image in the first, its style in the second of these.
    ("SDXL-CONTENT", 20, "BASE OUT00", 1),
    ("SDXL-STYLE", 20, "BASE OUT01", 1),
    ("FLUX-NONE", 61, "", 1),
    ("FLUX-ALL", 61, "CLIP-OUT", 1),
    ("FLUX-ALL0.5", 61, "CLIP-OUT", 0.5),
    ("FLUX-TEXT", 61, "CLIP T5", 1),
    ("FLUX-DOUBLE", 61, "CLIP T5 IN D00-D18", 1),
    ("FLUX-DOUBLE-FIRST", 61, "CLIP T5 IN D00-D09", 1),
    ("FLUX-DOUBLE-LAST", 61, "CLIP T5 D10-D18", 1),
    ("FLUX-SINGLE", 61, "CLIP T5 S00-S37 OUT", 1),
    ("FLUX-SINGLE-FIRST", 61, "CLIP T5 S00-S18", 1),
    ("FLUX-SINGLE-LAST", 61, "CLIP T5 S19-S37 OUT", 1),
)


def _line(name: str, count: int, blocks: str, weight: float) -> str:
    on = expand_blocks(blocks)[1]
    return f"{name}:" + ",".join(str(weight) if block in on else "0" for block in LAYOUTS[count])


CLASSIC_TEXT = "\n".join(_line(*row) for row in _CLASSIC) + "\n"
NAMED_TEXT = "\n".join(_line(*row) for row in _NAMED) + "\n"
ELEMENTS_TEXT = """ATTNDEEPON:IN05-OUT05:attn:1

ATTNDEEPOFF:IN05-OUT05:attn:0

PROJDEEPOFF:IN05-OUT05:proj:0

XYZ:::1
"""
