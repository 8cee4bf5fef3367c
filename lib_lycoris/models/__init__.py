"""Names of base models: canonical parameter names, key styles of files, block tables; no torch, built on use."""

from .base import Alias, BaseModel, base_model, of_file, reference, together
from .blocks import LAYOUTS, block_of, layout, layout_of_all
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
    "layout_of_all",
    "of_file",
    "parameter",
    "recognise",
    "reference",
    "rows",
    "split_parameter",
    "split_part",
    "together",
    "variant_of",
    "with_part",
    "without_spelling",
]
