"""Key of a file -> (module, suffix): the longest known suffix, after the spellings of other programs are made one.

Modules keep the name that the file gives them; finding the layer that is meant is `models`' part.
"""

from __future__ import annotations

import re

from ..algorithms import SUFFIXES

ALIASES = {
    "lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight", "lora_A": "lora_down.weight", "lora_B": "lora_up.weight",
    "lora_a.weight": "lora_down.weight", "lora_b.weight": "lora_up.weight", "lora_a": "lora_down.weight", "lora_b": "lora_up.weight",
    "lora.A.weight": "lora_down.weight", "lora.B.weight": "lora_up.weight", "lora.A": "lora_down.weight", "lora.B": "lora_up.weight",
    "lora_down": "lora_down.weight", "lora_up": "lora_up.weight", "lora_mid": "lora_mid.weight",
    "lora.down.weight": "lora_down.weight", "lora.up.weight": "lora_up.weight", "lora.mid.weight": "lora_mid.weight",
    "lora.alpha": "alpha", "lora_alpha": "alpha", "network_alpha": "alpha",
    "lora_layer.down.weight": "lora_down.weight", "lora_layer.up.weight": "lora_up.weight", "lora_layer.alpha": "alpha",
    "lora_linear_layer.down.weight": "lora_down.weight", "lora_linear_layer.up.weight": "lora_up.weight",
    "lora_conv2d_layer.down.weight": "lora_down.weight", "lora_conv2d_layer.up.weight": "lora_up.weight",
    "lora_magnitude_vector.weight": "magnitude", "lora_magnitude_vector": "magnitude", "magnitude": "magnitude",
    "bone_block": "miss_block",  # what PEFT called MiSS until 0.17
    "oft_R": "oft_R.weight", "scale": "scale", "reshape_weight": "reshape_weight",
    "scale.diff": "diff", "scale.set_weight": "set_weight",  # ComfyUI's, of a norm whose parameter is called so
    "ln_tuning_layers.weight": "set_weight", "ln_tuning_layers.bias": "base_layer.bias",  # PEFT's LN tuning keeps the parameters whole
}  # fmt: skip
# What a key may hold besides: words that many modules' own parameters end in prove nothing with a name in between.
_PLAIN = frozenset({"alpha", "weight", "bias", "scale", "diff", "magnitude", "scalar", "lora_up", "lora_down", "lora_mid"})
_KNOWN = SUFFIXES | set(ALIASES)
_LONGEST = max(suffix.count(".") for suffix in _KNOWN) + 1  # parts of a suffix

# diffusers' first format names the projection inside the suffix: ...attn1.processor.to_q_lora.down.weight
_PROCESSOR = re.compile(r"(?P<module>.+?)(?:\.processor)?\.to_(?P<which>q|k|v|out)_lora\.(?P<suffix>down\.weight|up\.weight|alpha)")
# XLabs' names both streams there: double_blocks.0.processor.qkv_lora1.down.weight
_XLABS = re.compile(r"(?P<module>.+\.processor\.(?:qkv|proj)_lora[12]?)\.(?P<suffix>down\.weight|up\.weight)")
_SAVED = re.compile(r"(?P<module>.+)\.modules_to_save(?:\.[^.]+)?\.(?P<leaf>weight|bias)")
_INFIX = re.compile(r"\.___(?:\.layer)?(?=\.)")  # HCP-Diffusion's, between a layer and its plugin
DEFAULT = "default"  # PEFT's name of an adapter without one
WHOLE = {"weight": "set_weight", "bias": "base_layer.bias"}  # of a parameter that PEFT saved as it is


def split(key: str) -> tuple[str, str, str | None] | None:
    """Return (module, canonical suffix, the adapter's name or None) of a key; None when no known suffix ends it."""
    head, _, tail = key.partition(".")
    if tail in _KNOWN:  # a module without dots, as most files have: nothing longer can be its suffix
        return _module(head), ALIASES.get(tail, tail), None
    plain = key.replace(f".{DEFAULT}.", ".").removesuffix(f".{DEFAULT}")
    adapter = DEFAULT if plain != key else None
    if ".___" in plain:
        plain = _INFIX.sub("", plain)
    if "_lora" in plain and (found := _in_processor(plain)):
        return *found, adapter
    if ".modules_to_save." in plain and (match := _SAVED.fullmatch(plain)):
        return match["module"], WHOLE[match["leaf"]], adapter
    if found := _longest(plain):
        return *found, adapter
    if named := _with_adapter(plain):
        return named
    found = _bare_weight(plain)
    return found and (*found, adapter)


def _module(name: str) -> str:
    """Return a module's name without the underscore that some kohya converters leave at its end."""
    return name.rstrip("_") or name


def _longest(key: str) -> tuple[str, str] | None:
    parts = key.split(".")
    for number in range(min(_LONGEST, len(parts) - 1), 0, -1):
        suffix = ".".join(parts[-number:])
        if suffix in _KNOWN and suffix != "weight":
            return _module(".".join(parts[:-number])), ALIASES.get(suffix, suffix)
    return None


def _bare_weight(key: str) -> tuple[str, str] | None:
    """Split a key of a plain ``weight``: (IA)^3's, and that of every module that is no adapter, so the last that is thought of."""
    module, _, leaf = key.rpartition(".")
    return (_module(module), leaf) if module and leaf == "weight" else None


def _with_adapter(key: str) -> tuple[str, str, str] | None:
    """Split a key that has the adapter's name in its suffix: ``lora_A.my-style.weight``, ``lora_E.my-style``."""
    parts = key.split(".")
    for place in (-2, -1):
        shorter = parts[:place] + parts[place + 1 :] if place != -1 else parts[:-1]
        if len(shorter) > 1 and (found := _longest(".".join(shorter))) and not _plain(shorter):
            return *found, parts[place]
    return None


def _plain(parts: list[str]) -> bool:
    """Tell whether what ends a key is a word that does not belong to adapters alone."""
    return parts[-1] in _PLAIN and ".".join(parts[-2:]) not in _KNOWN


def _in_processor(key: str) -> tuple[str, str] | None:
    if match := _PROCESSOR.fullmatch(key):
        return f"{match['module']}.{_projection(match['module'], match['which'])}", _processor_suffix(match["suffix"])
    if match := _XLABS.fullmatch(key):
        return match["module"], _processor_suffix(match["suffix"])
    return None


def _projection(module: str, which: str) -> str:
    if "self_attn" in module:  # a text encoder
        return "out_proj" if which == "out" else f"{which}_proj"
    return "to_out.0" if which == "out" else f"to_{which}"


def _processor_suffix(suffix: str) -> str:
    return suffix if suffix == "alpha" else f"lora_{suffix}"
