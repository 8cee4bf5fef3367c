"""Names of base models: canonical parameter names, key styles of files, block tables; no torch, built on use."""

from .base import Alias, BaseModel, base_model, of_file, reference, together
from .blocks import LAYOUTS, block_of, layout, sd3_layout
from .detect import TOLERATED, Recognition, detect_family, recognise, variant_of
from .families import FAMILIES, UNKNOWN
from .live import LiveNames, Piece, from_live
from .parameters import LayerInfo, count_layers, parameter, rows, split_parameter, split_part, with_part
from .spellings import without_spelling

__all__ = [
    "FAMILIES",
    "LAYOUTS",
    "TOLERATED",
    "UNKNOWN",
    "Alias",
    "BaseModel",
    "LayerInfo",
    "LiveNames",
    "Piece",
    "Recognition",
    "base_model",
    "block_of",
    "count_layers",
    "detect_family",
    "from_live",
    "layout",
    "of_file",
    "parameter",
    "recognise",
    "reference",
    "rows",
    "sd3_layout",
    "split_parameter",
    "split_part",
    "together",
    "variant_of",
    "with_part",
    "without_spelling",
]
