"""A preset of LyCORIS in a TOML file: which modules are trained, by classes and by patterns of names, and with which algorithm each."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import ToolError
from ...tools.training.network_options import ALGORITHMS
from ..toml_file import read_toml
from .arguments import KEYWORDS, MODULE_OPTIONS

CLASSES = ("unet_target_module", "text_encoder_target_module")
PATTERNS = ("unet_target_name", "text_encoder_target_name", "exclude_name")
MAPS = ("module_algo_map", "name_algo_map")
FLAGS = ("enable_conv", "use_fnmatch")
KEYS = (*FLAGS, *CLASSES, *PATTERNS, *MAPS)
OVERRIDES = ("algo", "dim", "alpha", "use_tucker", *MODULE_OPTIONS, *KEYWORDS.values())
DIFFUSERS: Mapping[str, tuple[str, ...]] = {  # class that presets for LyCORIS name -> what diffusers and transformers call it
    "CrossAttention": ("Attention", "FluxAttention"), "DoubleStreamBlock": ("FluxTransformerBlock",),
    "SingleStreamBlock": ("FluxSingleTransformerBlock",), "CLIPAttention": ("CLIPSdpaAttention",),
}  # fmt: skip


def read_preset(path: Path) -> dict[str, Any]:
    """Return a preset. Raises ToolError naming the file and what cannot be obeyed in it."""
    found = read_toml(path)
    for key, value in found.items():
        if reason := _wrong(key, value, bool(found.get("use_fnmatch"))):
            raise ToolError(f"{path.name}: {reason}")
    return found


def _wrong(key: str, value: Any, shell: bool) -> str | None:
    """Say what is wrong with one entry."""
    if key not in KEYS:
        return f"{key} is no key of a preset; there are {', '.join(KEYS)}"
    if key in FLAGS:
        return None if isinstance(value, bool) else f"{key} is true or false"
    if key in MAPS:
        if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
            return f"{key} has tables, such as [{key}.CrossAttention]"
        return next((reason for name, one in value.items() if (reason := _wrong_override(name, one))), None)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return f"{key} is a list of names"
    bad = next((one for one in value if key in PATTERNS and not shell and not _is_pattern(one)), None)
    return None if bad is None else f'{key}: "{bad}" is no regular expression'


def _wrong_override(name: str, override: Mapping[str, Any]) -> str | None:
    unknown = next((key for key in override if key not in OVERRIDES), None)
    if unknown is not None:
        return f"{name}: {unknown} is none of {', '.join(OVERRIDES)}"
    if override.get("algo", "lora") not in ALGORITHMS:
        return f"{name}: algo={override['algo']} is no algorithm of lycoris-lora; there are {', '.join(ALGORITHMS)}"
    return None


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def unused(path: Path, roots: Sequence[nn.Module]) -> list[str]:
    """Return what a preset names that is nowhere in these components: classes for other models, and mistakes."""
    found = read_preset(path)
    here = [(name, type(module).__name__) for root in roots for name, module in root.named_modules()]
    classes, match = {kind for _, kind in here}, partial(matches, bool(found.get("use_fnmatch")))
    named = [name for key in (*CLASSES, "module_algo_map") for name in found.get(key, ())]
    patterns = [name for key in (*PATTERNS, "name_algo_map") for name in found.get(key, ())]
    missing = [name for name in named if not classes & {name, *DIFFUSERS.get(name, ())}]
    return list(dict.fromkeys([*missing, *(one for one in patterns if not any(match(one, name) for name, _ in here))]))


def matches(shell: bool, pattern: str, name: str) -> bool:
    """Tell whether a pattern, a shell's or a regular expression, is for a module's name."""
    return fnmatch.fnmatch(name, pattern) if shell else re.match(pattern, name) is not None
