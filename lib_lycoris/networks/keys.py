"""Key of a file -> (module, suffix): the longest known suffix, after the spellings of other programs are made one.

Modules keep the name that the file gives them; finding the layer that is meant is `models`' part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..algorithms import SUFFIXES

ALIASES = {
    "lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight",
    "lora_A": "lora_down.weight", "lora_B": "lora_up.weight",
    "lora.down.weight": "lora_down.weight", "lora.up.weight": "lora_up.weight", "lora.alpha": "alpha",
    "lora_linear_layer.down.weight": "lora_down.weight", "lora_linear_layer.up.weight": "lora_up.weight",
    "lora_magnitude_vector.weight": "magnitude", "lora_magnitude_vector": "magnitude",
    "oft_R": "oft_R.weight", "scale": "scale", "magnitude": "magnitude",
}  # fmt: skip

# diffusers' first format names the projection inside the suffix: ...attn1.processor.to_q_lora.down.weight
PROCESSOR = re.compile(r"^(?P<module>.+?)(?:\.processor)?\.to_(?P<which>q|k|v|out)_lora\.(?P<suffix>down\.weight|up\.weight|alpha)$")
SLICES = re.compile(r"^(?P<module>.+)\.oft_blocks\.(?P<slice>\d+)$")  # kohya's Flux OFT: one rotation for each of q, k, v, mlp
EMBEDDING_PARTS = (
    "string_to_param.*",
    "emb_params",
    "clip_l",
    "clip_g",
    "clip_l_out",
    "clip_g_out",
    "t5",
    "t5_out",
    "qwen",
    "*",
)

_KNOWN = SUFFIXES | set(ALIASES)
_BY_LENGTH = sorted(_KNOWN, key=len, reverse=True)


@dataclass
class Keys:
    """A file's keys, sorted out."""

    modules: dict[str, dict[str, str]] = field(default_factory=dict)  # module -> suffix -> key
    embeddings: dict[str, dict[str, str]] = field(default_factory=dict)  # embedding -> part -> key
    unknown: list[tuple[str, str]] = field(default_factory=list)  # (key, reason)


def split(key: str) -> tuple[str, str] | None:
    """Return (module, canonical suffix) of a key; None when no known suffix ends it."""
    head, _, tail = key.partition(".")
    if tail in _KNOWN:  # a module without dots, as most files have: nothing longer can be its suffix
        return head, ALIASES.get(tail, tail)
    plain = key.replace(".default.", ".").removesuffix(".default")
    if match := PROCESSOR.match(plain):
        return f"{match['module']}.{_projection(match['module'], match['which'])}", _processor_suffix(match["suffix"])
    for suffix in _BY_LENGTH:
        if plain.endswith("." + suffix):
            return plain[: -len(suffix) - 1], ALIASES.get(suffix, suffix)
    return None


def _projection(module: str, which: str) -> str:
    if "self_attn" in module:  # a text encoder
        return "out_proj" if which == "out" else f"{which}_proj"
    return "to_out.0" if which == "out" else f"to_{which}"


def _processor_suffix(suffix: str) -> str:
    return suffix if suffix == "alpha" else f"lora_{suffix}"


def sort_out(keys: Iterable[str]) -> Keys:
    """Sort a file's keys into modules, bundled embeddings and what is neither."""
    found = Keys()
    for key in keys:
        if key.startswith("bundle_emb."):
            _add_embedding(found, key)
        elif key.startswith("_aux."):
            found.unknown.append((key, "side data of the program that wrote the file, not a weight"))
        elif ".oft_blocks." in key and (match := SLICES.match(key)):
            _add(found, f"{match['module']}[{match['slice']}]", "oft_blocks", key)
        elif parts := split(key):
            _add(found, *parts, key)
        else:
            found.unknown.append((key, "no known algorithm has a tensor of this name"))
    _share_alpha(found)
    return found


def _add(found: Keys, module: str, suffix: str, key: str) -> None:
    taken = found.modules.setdefault(module, {})
    if suffix in taken:
        found.unknown.append((key, f"{taken[suffix]} says the same in another spelling"))
    else:
        taken[suffix] = key


def _add_embedding(found: Keys, key: str) -> None:
    name = key.removeprefix("bundle_emb.")
    part = next((p for p in EMBEDDING_PARTS if name.endswith("." + p)), None)
    if part is None:
        found.unknown.append((key, "a bundled embedding of an unknown layout"))
    else:
        found.embeddings.setdefault(name[: -len(part) - 1], {})[part] = key


def _share_alpha(found: Keys) -> None:
    """Give the one alpha of a sliced module to each of its slices."""
    for module in [name for name in found.modules if name.endswith("]")]:
        whole = found.modules.get(module[: module.rindex("[")], {})
        if "alpha" in whole:
            found.modules[module].setdefault("alpha", whole["alpha"])
    for module in [name for name, suffixes in found.modules.items() if set(suffixes) == {"alpha"} and f"{name}[0]" in found.modules]:
        del found.modules[module]
