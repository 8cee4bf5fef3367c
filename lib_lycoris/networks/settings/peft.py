"""PEFT's adapter_config.json -> what the algorithm of a module must know besides its tensors.

The values that one algorithm alone needs it reads itself (``Algorithm.from_config``); here is what depends on the module's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import sqrt
from typing import Any

from ...algorithms import Config
from ...errors import NetworkFormatError, readable
from .name_patterns import Endings, NameTable, check_work, covers

SCALED = ("LORA", "LOHA", "LOKR")  # whose scale is alpha / r
RANKED = ("LORA", "LOHA")  # whose factors always have the rank that the config says


class PeftConfig:
    """One config, with what it says by names sorted out once for all modules."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values, self._config = values, Config(values)

    def settings(self, module: str) -> dict[str, Any]:
        """Return the settings of a module. Raises NetworkFormatError naming what in the config cannot be understood."""
        config = self._config
        kind = config.text("peft_type", "LORA").upper()
        found: dict[str, Any] = {"config": config}
        if "peft_type" in config:
            found["told_kind"] = kind
        if kind == "LORA" and config.flag("use_dora"):
            found["told_magnitude"] = True
        module = module.removeprefix("base_model.model.")
        rank = self._rank(module) if kind in SCALED else None
        if kind in RANKED and rank is not None:
            found["told_rank"] = rank
        if rank is not None and (scale := self._scale(rank, module)) is not None:
            found["fixed_scale"] = scale
        if kind == "IA3" and (names := self._values.get("feedforward_modules")) is not None:
            found["feedforward"] = covers(names, module) if isinstance(names, str) else self._feedforward.end(module)
        return found

    def check(self, names: Sequence[str]) -> None:
        """Raise NetworkFormatError where the patterns take too long on a file's names: no layer of it is then applied."""
        tables = [table for key in ("rank_pattern", "alpha_pattern") if isinstance(table := self._values.get(key), dict)]
        patterns = [pattern for table in tables for pattern in NameTable(table, "adapter_config.json").expressions]
        if isinstance(words := self._values.get("feedforward_modules"), str):
            patterns.append(words)
        for pattern in patterns:
            check_work(pattern, names)

    def _scale(self, rank: int, module: str) -> float | None:
        """Return alpha / r or alpha / √r; None where the config says no alpha."""
        config, by_name = self._config, Config({"alpha": self._alphas.first(module)})
        if "lora_alpha" not in config and "alpha" not in config and "alpha" not in by_name:
            return None
        alpha = by_name.number("alpha", config.number("lora_alpha", config.number("alpha", 1)))
        return alpha / (sqrt(rank) if config.flag("use_rslora") else rank)

    def _rank(self, module: str) -> int | None:
        """Return the rank that the config says; None where it says none."""
        config, by_name = self._config, Config({"r": self._ranks.first(module)})
        return by_name.integer("r", config.integer("r", 1), least=1) if "r" in config or "r" in by_name else None

    @cached_property
    def _ranks(self) -> NameTable:
        return self._table("rank_pattern")

    @cached_property
    def _alphas(self) -> NameTable:
        return self._table("alpha_pattern")

    def _table(self, key: str) -> NameTable:
        patterns = self._values.get(key) or {}
        if not isinstance(patterns, dict):
            raise NetworkFormatError(f"adapter_config.json says {key} = {readable(repr(patterns), 40)}, but a table of names is expected")
        return NameTable(patterns, f"{key} of adapter_config.json")

    @cached_property
    def _feedforward(self) -> Endings:
        names = self._values["feedforward_modules"]
        if not isinstance(names, (list, tuple)):
            raise NetworkFormatError(f"adapter_config.json names {readable(repr(names), 40)}, but a list of names is expected")
        return Endings(map(str, names))
