"""PEFT's adapter_config.json -> what the algorithm of a module must know besides its tensors.

The values that one algorithm alone needs it reads itself (``Algorithm.from_config``); here is what depends on the module's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from ...algorithms import Config
from ...errors import NetworkFormatError, readable
from .name_patterns import covers, ends_with

MOST_PATTERNS = 20_000  # of one config: more than any model has layers
SCALED = ("LORA", "LOHA", "LOKR")  # whose scale is alpha / r
RANKED = ("LORA", "LOHA")  # whose factors always have the rank that the config says


def peft_settings(values: Mapping[str, Any], module: str) -> dict[str, Any]:
    """Return the settings of a module. Raises NetworkFormatError naming what in the config cannot be understood."""
    config = Config(values)
    kind = config.text("peft_type", "LORA").upper()
    found: dict[str, Any] = {"config": config}
    if "peft_type" in config:
        found["told_kind"] = kind
    if kind == "LORA" and config.flag("use_dora"):
        found["told_magnitude"] = True
    module = module.removeprefix("base_model.model.")
    if kind in RANKED and (rank := _rank(config, values, module)) is not None:
        found["told_rank"] = rank
    if kind in SCALED and (scale := _scale(config, values, module)) is not None:
        found["fixed_scale"] = scale
    if kind == "IA3" and (names := values.get("feedforward_modules")) is not None:
        found["feedforward"] = covers(names, module) if isinstance(names, str) else any(module.endswith(end) for end in _words(names))
    return found


def _scale(config: Config, values: Mapping[str, Any], module: str) -> float | None:
    """Return alpha / r or alpha / √r; None where the config says neither."""
    rank, by_name = _rank(config, values, module), Config({"alpha": _of_module(values, "alpha_pattern", module)})
    if rank is None or ("lora_alpha" not in config and "alpha" not in config and "alpha" not in by_name):
        return None
    alpha = by_name.number("alpha", config.number("lora_alpha", config.number("alpha", 1)))
    return alpha / (sqrt(rank) if config.flag("use_rslora") else rank)


def _rank(config: Config, values: Mapping[str, Any], module: str) -> int | None:
    """Return the rank that the config says; None where it says none."""
    by_name = Config({"r": _of_module(values, "rank_pattern", module)})
    return by_name.integer("r", config.integer("r", 1), least=1) if "r" in config or "r" in by_name else None


def _of_module(values: Mapping[str, Any], key: str, module: str) -> Any:
    """Return what rank_pattern or alpha_pattern says of a module: the first of its names that fits."""
    patterns = values.get(key) or {}
    if not isinstance(patterns, dict) or len(patterns) > MOST_PATTERNS:
        raise NetworkFormatError(f"adapter_config.json says {key} = {readable(repr(patterns), 40)}, but a table of names is expected")
    return next((value for pattern, value in patterns.items() if ends_with(pattern, module)), None)


def _words(names: Any) -> list[str]:
    if not isinstance(names, (list, tuple)):
        raise NetworkFormatError(f"adapter_config.json names {readable(repr(names), 40)}, but a list of names is expected")
    return [str(name) for name in names]
