"""What people type in a prompt -> strengths: tags, schedules, block weights, element filters and their presets."""

from .elements import ElementRule
from .own_presets import OwnPresets
from .parse import find_tags, parse_args, parse_tag
from .presets import Presets
from .schedule import Schedule
from .strength import Strength, StrengthMap, resolve
from .tag import Tag, TagError
from .weights import BlockWeights, Cell, parse_weights, parse_weights_or_preset

__all__ = [
    "BlockWeights",
    "Cell",
    "ElementRule",
    "OwnPresets",
    "Presets",
    "Schedule",
    "Strength",
    "StrengthMap",
    "Tag",
    "TagError",
    "find_tags",
    "parse_args",
    "parse_tag",
    "parse_weights",
    "parse_weights_or_preset",
    "resolve",
]
