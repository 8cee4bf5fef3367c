"""What people type in a prompt -> strengths: tags, schedules, block weights, element filters and their presets."""

from .elements import ElementRule
from .names import escape_name, unescape_name
from .own_presets import OwnPresets
from .parse import parse_args, parse_tag
from .plan import Part, PromptPlan, plan_negative, plan_prompt
from .presets import Presets
from .scan import NearMiss, find_tags, near_misses
from .schedule import Schedule
from .strength import Strength, StrengthMap, resolve, text_spans
from .tag import Tag, TagError
from .weights import BlockWeights, Cell, parse_weights, parse_weights_or_preset

__all__ = [
    "BlockWeights",
    "Cell",
    "ElementRule",
    "NearMiss",
    "OwnPresets",
    "Part",
    "Presets",
    "PromptPlan",
    "Schedule",
    "Strength",
    "StrengthMap",
    "Tag",
    "TagError",
    "escape_name",
    "find_tags",
    "near_misses",
    "parse_args",
    "parse_tag",
    "parse_weights",
    "parse_weights_or_preset",
    "plan_negative",
    "plan_prompt",
    "resolve",
    "text_spans",
    "unescape_name",
]
