"""Which layers are trained: the presets of LyCORIS, by classes of modules and patterns of names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import ToolError
from ...records import dataclass
from .preset_file import DIFFUSERS, matches, read_preset

# sd-scripts' own: the transformers of the UNet, and with conv_dim its other blocks too; the blocks of a model that is a transformer
KOHYA_CONVOLUTIONS = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
KOHYA_MODULES = ("Transformer2DModel", "FluxTransformerBlock", "FluxSingleTransformerBlock", "ZImageTransformerBlock")
TEXT_MODULES = ("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class ChosenLayer:
    """A layer that is trained, and what its preset says of it alone."""

    path: str  # inside its component
    layer: nn.Module
    override: Mapping[str, Any]


def preset(name: str, convolutions: bool) -> dict[str, Any]:
    """Return a preset: sd-scripts' own ("kohya"), one of LyCORIS by its name, or a TOML file. Raises ToolError."""
    if name == "kohya":
        more = KOHYA_CONVOLUTIONS if convolutions else ()
        return {
            "enable_conv": convolutions, "unet_target_module": [*KOHYA_MODULES, *more], "text_encoder_target_module": list(TEXT_MODULES),
        }  # fmt: skip
    from lycoris.config import PRESET

    if name in PRESET:
        return _for_diffusers(dict(PRESET[name]))
    if not name.endswith(".toml"):
        raise ToolError(f"preset={name} is none of {', '.join(PRESET)}, nor a .toml file")
    return _by_their_classes(read_preset(Path(name)))


def _by_their_classes(found: dict[str, Any]) -> dict[str, Any]:
    """Return a preset with the names of classes that modules have here beside those that sd-scripts' models have."""
    for key in ("unet_target_module", "text_encoder_target_module"):
        classes = list(found.get(key, ()))
        found[key] = [*classes, *(other for name in classes for other in DIFFUSERS.get(name, ()))]
    asked = found.get("module_algo_map", {})
    found["module_algo_map"] = {**{other: value for name, value in asked.items() for other in DIFFUSERS.get(name, ())}, **asked}
    return found


def _for_diffusers(found: dict[str, Any]) -> dict[str, Any]:
    """Return a preset of LyCORIS' own as it is meant on diffusers' modules.

    Its list names the time embedding twice, attention is called by older names, and (IA)^3's patterns miss the path before them.
    """
    found["unet_target_module"] = [name for name in found.get("unet_target_module", ()) if name != "TimestepEmbedding"]
    found = _by_their_classes(found)
    for key in ("unet_target_name", "text_encoder_target_name"):
        found[key] = [_anywhere(name) for name in found.get(key, ())]
    found["name_algo_map"] = {_anywhere(name): value for name, value in found.get("name_algo_map", {}).items()}
    return found


def _anywhere(name: str) -> str:
    ends = ("to_k", "to_v", "ff.net.2", "k_proj", "v_proj", "mlp.fc2")
    return rf"(.*\.)?{re.escape(name)}$" if name in ends else name


def chosen_layers(root: nn.Module, found: Mapping[str, Any], part: str, norms: bool) -> Iterator[ChosenLayer]:
    """Yield the layers of a component (``part``: "unet" or "text_encoder") that a preset takes, in the model's order."""
    classes = set(found.get(f"{part}_target_module", ()))
    match = partial(matches, bool(found.get("use_fnmatch")))
    named: list[str] = list(found.get(f"{part}_target_name", ()))
    by_class: Mapping[str, Any] = found.get("module_algo_map", {})
    by_name: Mapping[str, Any] = found.get("name_algo_map", {})
    modules = dict(root.named_modules())
    wanted = (nn.Linear, *CONVOLUTIONS, *NORMS) if norms else (nn.Linear, *CONVOLUTIONS)
    for path, layer in modules.items():
        if not isinstance(layer, wanted) or any(match(pattern, path) for pattern in found.get("exclude_name", ())):
            continue
        if any(match(pattern, path) for pattern in named):
            override = next((value for pattern, value in by_name.items() if match(pattern, path)), None)
            yield ChosenLayer(path, layer, by_class.get(type(layer).__name__, {}) if override is None else override)
            continue
        parents = [type(modules[name]).__name__ for name in _parents(path)]
        if classes & set(parents):
            yield ChosenLayer(path, layer, next((by_class[name] for name in reversed(parents) if name in by_class), {}))


def _parents(path: str) -> Iterator[str]:
    """Yield the names of a module and all around it, the outermost first."""
    yield ""
    parts = path.split(".")
    yield from (".".join(parts[: count + 1]) for count in range(len(parts)))
