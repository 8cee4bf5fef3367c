"""What a new network file must say outside its tensors, so that each module in it is read as what it is, for the same base model.

A tool that keeps a module as it was keeps its tensors; what PEFT's config or kohya's arguments said of it besides has to come along, and
must not be said of the modules that were made anew. The file's own header is the place for it: a config beside the file is easily lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from math import isclose
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....algorithms import Algorithm
from ....errors import NetworkFormatError, ToolError
from ....networks import Network
from ....networks.keys import sort_out
from ....networks.matching import parse_module
from ....networks.settings.peft import SCALED
from ....networks.settings.source import SettingsSource, read_source
from .network_file import Patch, base_model_said
from .own_config import CONFIG, UNSCALED

SCALES = ("r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora")  # a kept module has its scale as alpha
ARGUMENTS = ("bypass_mode", "rs_lora", "cdka_alpha", "krona_alpha", "use_cdka_scale")
CLOSE = 1e-5


class ReadingBack:
    """Reads each module of a new file as it is made, with each of the settings that the file could say."""

    def __init__(self, network: Network, save_to: Path, style: str) -> None:
        self._name, self._base = network.path.name, base_model_said(network)
        names = ["base_model.model."] if style == "peft" else []
        old = read_source(network.path, network.metadata, names)
        self._plain = SettingsSource({}, {}, None, bool(names))
        self._open = [(said, read_source(save_to, said, names)) for said in ({}, _carried(old), UNSCALED)]

    @property
    def room(self) -> dict[str, str]:
        """The longest of what may have to be said."""
        longest = max((said for said, _ in self._open), key=lambda said: sum(map(len, said.values())))
        return {**longest, **self._base}

    @property
    def metadata(self) -> dict[str, str]:
        """What the file has to say for all modules that were checked."""
        return {**self._open[0][0], **self._base}

    def check(self, module: str, tensors: Mapping[str, Tensor], kept: Patch | None = None) -> None:
        """Read a module of the new file; kept: what it has to be, where it is not a new one. Raises ToolError where no settings do."""
        expected = {kept.leaf: kept.algorithm} if kept else _read(self._plain, module, tensors)
        shape = kept.shape if kept else None
        left = [item for item in self._open if _means(_read(item[1], module, tensors), expected, shape)]
        if not left:
            raise ToolError(
                f"{self._name}: {module} depends on settings of the training that would be lost, or be wrong for other modules of the new "
                "file; make plain LoRAs of all of them first (convert with `algorithm=lora` and `base_model`)"
            )
        self._open = left


def _carried(source: SettingsSource) -> dict[str, str]:
    """Return the settings of a file without the scales."""
    configs: dict[str, Mapping[str, Any]] = {}
    for part, config in source.configs.items():
        scaled = str(config.get("peft_type") or "LORA").upper() in SCALED
        configs[part] = {key: value for key, value in config.items() if not (scaled and key in SCALES)}
    text = replace(source, configs=configs).config_text
    arguments = {key: value for key, value in source.arguments.items() if key in ARGUMENTS}
    return {
        **({CONFIG: text} if text else {}),
        **({"ss_network_args": json.dumps(arguments)} if arguments else {}),
    }


def _read(source: SettingsSource, module: str, tensors: Mapping[str, Tensor]) -> dict[str, Algorithm]:
    """Return leaf -> algorithm of a module; empty where it is not understood whole."""
    stored = {f"{module}.{suffix}": tensor for suffix, tensor in tensors.items()}
    keys = sort_out(stored, source.saved)  # type: ignore[arg-type]  # of a tensor only the shape is asked for, too
    if len(keys.modules) != 1 or keys.unknown or keys.doubtful or keys.twins:
        return {}
    ((name, suffixes),) = keys.modules.items()
    try:
        return parse_module(source, name, {suffix: stored[key] for suffix, key in suffixes.items()})
    except NetworkFormatError:
        return {}


def _means(found: Mapping[str, Algorithm], expected: Mapping[str, Algorithm], shape: tuple[int, ...] | None) -> bool:
    """Tell whether a module is read as expected; shape: of what it changes, for two forms of the same change."""
    return bool(expected) and found.keys() >= expected.keys() and all(_same(found[leaf], it, shape) for leaf, it in expected.items())


def _same(one: Algorithm, other: Algorithm, shape: tuple[int, ...] | None) -> bool:
    """Compare what is not stored of two algorithms with the same tensors; where that differs, what they do to some weight."""
    if type(one) is not type(other) or type(one.direction) is not type(other.direction):
        return False
    mine, its = _facts(one), _facts(other)
    if mine.keys() == its.keys() and all(_equal(mine[key], its[key]) for key in mine):
        return True
    return shape is not None and one.check_shape(shape) is None and _same_change(one, other, shape)


def _same_change(one: Algorithm, other: Algorithm, shape: tuple[int, ...]) -> bool:
    if (one.on_bias(shape) is None) != (other.on_bias(shape) is None):
        return False
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)) / max(shape[-1], 1) ** 0.5
    first, second = one.delta(weight), other.delta(weight)
    return bool((first - second).norm() <= CLOSE * second.norm())


def _facts(algorithm: Algorithm) -> dict[str, Any]:
    """Return the fields of an algorithm that are no tensors, its scale in place of what makes it."""
    found: dict[str, Any] = {"scale": getattr(algorithm, "scale", None)}
    for item in fields(algorithm):
        value = getattr(algorithm, item.name)
        if isinstance(value, Algorithm):
            found.update({f"{item.name}.{key}": fact for key, fact in _facts(value).items()})
        elif "suffix" not in item.metadata and not isinstance(value, Tensor) and item.name != "fixed_scale":
            found[item.name] = value
    return found


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return isclose(one, other, rel_tol=CLOSE)
    return bool(one == other)
