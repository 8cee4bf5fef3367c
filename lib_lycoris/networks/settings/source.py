"""What a file says outside its tensors and an algorithm needs to know: PEFT's config, kohya's network arguments, who wrote it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ...errors import NetworkFormatError, kind_of, reason
from ...models.families import PIPELINE_PARTS
from ...plain_json import parse_json
from ...records import dataclass
from .peft import PeftConfig

SIDECARS = {"te": "text_encoder", "text_encoder": "text_encoder", "te2": "text_encoder_2", "text_encoder_2": "text_encoder_2",
            "unet": "unet", "transformer": "transformer"}  # fmt: skip
CONFIGS = {"adapter_config.json": "", **{f"adapter_config.{part}.json": component for part, component in SIDECARS.items()}}

SPLIT = {"qkv": 3, "linear1": 4}  # part of the names of Flux' layers that kohya trains in parts -> their number
LONGEST_DIM = 9  # digits of a rank
LARGEST_CONFIG = 4 << 20  # bytes
NOTHING = (None, "", "None", "null")


@dataclass(frozen=True)
class SettingsSource:
    """Who wrote a file, and the configs that came with it."""

    configs: Mapping[str, Mapping[str, Any]]  # component, or "" for the whole file -> PEFT's config
    arguments: Mapping[str, str]  # ss_network_args
    dim: int | None  # ss_network_dim
    peft: bool

    @property
    def saved(self) -> list[str]:
        """Ends of the names of modules whose parameters PEFT saved whole; "*.bias" where it saved every bias."""
        found: list[str] = []
        for config in self.configs.values():
            names = config.get("modules_to_save") or ()
            found.extend(str(name) for name in (names if isinstance(names, (list, tuple)) else [names]))
            found.extend(["*.bias"] if config.get("bias") in ("all", "lora_only") else [])
        return found

    @property
    def config_text(self) -> str | None:
        """PEFT's configs as a file's metadata keeps them (``lora_adapter_metadata``); None without any."""
        flat = {f"{part}.{key}" if part else key: value for part, config in self.configs.items() for key, value in config.items()}
        return json.dumps(flat) if flat else None

    def settings(self, module: str, suffixes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """Return what the algorithm of a module must know besides its tensors; suffixes: suffix -> shape."""
        found: dict[str, Any] = {}
        if "magnitude" in suffixes:
            found["per_output"] = True
        if module.startswith(("oft_unet_", "oft_te")):
            found["zero_constraint_freezes"] = True
        if _true(self.arguments.get("bypass_mode")):
            found["turns_bias"] = True
        if "a1.weight" in suffixes and _true(self.arguments.get("rs_lora")):
            found["rank_stabilised"] = True
        if "lora_down.weight" in suffixes and "alpha" in suffixes and (scale := self._split_scale(module, suffixes)):
            found["split_rank"] = scale
        if {"lokr_w1", "lokr_w2", "alpha"} <= suffixes.keys() and _true(self.arguments.get("rs_lora")):
            found["alpha_is_cubed_scale"] = True  # LyCORIS multiplies by √dim and saves dim · √dim
        if "cdka_alpha" in self.arguments or ("krona_alpha" in self.arguments and _true(self.arguments.get("use_cdka_scale"))):
            found["alpha_over_root"] = True
        config = self._config(module)
        if config is not None:
            found.update(config.settings(module))
        elif "oft_R.weight" in suffixes and not self.peft:
            found["transposed_convolutions"] = True  # OneTrainer
        return found

    @cached_property
    def _read(self) -> dict[str, PeftConfig]:
        return {component: PeftConfig(values) for component, values in self.configs.items()}

    def _config(self, module: str) -> PeftConfig | None:
        """Return the PEFT config that a module falls under."""
        component, known = component_of(module), self._read
        if component in known:
            return known[component]
        unet = known.get("unet" if self.configs.get("unet") else "transformer")
        return known[""] if self.configs.get("") else unet if component == "" else None

    def _split_scale(self, module: str, suffixes: Mapping[str, Sequence[int]]) -> int | None:
        """Return the rank that alpha is divided by where kohya's split_qkv saved 3 or 4 adapters as one block-diagonal one."""
        rank = suffixes["lora_down.weight"][0]
        parts = next((number for name, number in SPLIT.items() if name in module), 0)
        return self.dim if _true(self.arguments.get("split_qkv")) and self.dim and parts and rank == parts * self.dim else None


def component_of(module: str) -> str:
    """Return the component that a module's dotted name says; empty where it says none."""
    plain = module.removeprefix("base_model.model.")
    head = plain.partition(".")[0]
    component = head if head in PIPELINE_PARTS and head != plain else ""
    return component or ("text_encoder" if plain.startswith("text_model.") or ".text_model." in plain else "")


def read_source(path: Path, metadata: Mapping[str, str], keys: Sequence[str]) -> SettingsSource:
    """Collect what stands in a file's metadata and in the adapter_config files beside it."""
    arguments = _hints(metadata.get("ss_network_args"))
    dim = metadata.get("ss_network_dim", "")
    configs = configs_within(path, metadata) or configs_beside(path)
    peft = bool(configs) or any(key.startswith("base_model.model.") for key in keys)
    for values in configs.values():
        PeftConfig(values).check([key.rpartition(".")[0] for key in keys])
    return SettingsSource(
        configs, {k: str(v) for k, v in arguments.items()}, int(dim) if dim.isdecimal() and len(dim) <= LONGEST_DIM else None, peft
    )


def configs_within(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the configs in a file's own metadata: component, or "" for the whole file -> config."""
    found: dict[str, dict[str, Any]] = {}
    written = metadata.get("lora_adapter_metadata")
    for key, value in (_table(written, f"lora_adapter_metadata in {path.name}") if written not in NOTHING else {}).items():
        component, _, name = key.partition(".")
        found.setdefault(component if component in PIPELINE_PARTS else "", {})[name if component in PIPELINE_PARTS else key] = value
    return found


def configs_beside(path: Path) -> dict[str, dict[str, Any]]:
    """Return the configs in files beside a network, which say of every network in the folder what PEFT wrote of one."""
    found: dict[str, dict[str, Any]] = {}
    folder = str(path.parent)
    for name, component in CONFIGS.items():
        if not os.path.isfile(os.path.join(folder, name)):
            continue
        beside = path.with_name(name)
        try:
            if beside.stat().st_size > LARGEST_CONFIG:
                raise NetworkFormatError(f"{name} beside {path.name} is larger than any config; delete it or save it again")
            found[component] = _table(beside.read_text("utf-8"), f"{name} beside {path.name}")
        except (OSError, UnicodeDecodeError) as error:
            raise NetworkFormatError(f"{name} beside {path.name} cannot be read: {reason(error)}; delete it or save it again") from error
    return found


def _hints(text: str | None) -> dict[str, Any]:
    """Return metadata that is a table; many programs write "None" or Python literals there, which say nothing."""
    try:
        value = parse_json(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _table(text: str | None, where: str) -> dict[str, Any]:
    """Return PEFT's config. Raises NetworkFormatError: without it the strength of every layer would be a guess."""
    try:
        value = parse_json(text or "{}")
    except ValueError as error:
        raise NetworkFormatError(f"{where} is not JSON: {reason(error)}; save the network again") from error
    if not isinstance(value, dict):
        raise NetworkFormatError(f"{where} is {kind_of(value)}, but PEFT's config is a table; save the network again")
    return value


def _true(value: str | None) -> bool:
    return str(value).lower() in ("true", "1")
