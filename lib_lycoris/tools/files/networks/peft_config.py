"""PEFT's adapter_config.json for a network of plain LoRAs, or of DoRAs: what PEFT itself can load."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from ....atomic import write_text
from .compose import Modules

NAME = "adapter_model.safetensors"  # what PEFT looks for
FACTORS = {"lora_A.weight", "lora_B.weight"}
MAGNITUDE = {"lora_magnitude_vector", "lora_magnitude_vector.weight"}
BIAS = {"lora_B.bias"}


def config_beside(path: Path, style: str, modules: Modules) -> tuple[list[Path], list[str]]:
    """Write PEFT's configuration beside a file that has the name PEFT asks for; return where, and what is to be said.

    A file of anything but LoRAs, or of DoRAs beside plain ones, PEFT cannot be told of: it gets none.
    """
    if style != "peft" or path.name != NAME:
        return [], []
    beside = path.with_name("adapter_config.json")
    kinds = {frozenset(tensors.keys() - FACTORS) for _, tensors in modules}
    plain = all(tensors.keys() >= FACTORS for _, tensors in modules) and all(kind <= MAGNITUDE | BIAS for kind in kinds)
    if not plain or len(kinds) != 1:
        return [], [f"no {beside.name} is written: PEFT loads plain LoRAs alone, or DoRAs alone (convert with `algorithm=lora`)"]
    write_text(beside, json.dumps(_config(modules, *kinds), indent=1) + "\n")
    return [beside], []


def _config(modules: Modules, kind: frozenset[str]) -> dict[str, object]:
    ranks = {name.removeprefix("base_model.model."): tensors["lora_A.weight"].shape[0] for name, tensors in modules}
    common = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: rank for name, rank in ranks.items() if rank != common}
    return {
        "peft_type": "LORA", "r": common, "lora_alpha": common, "target_modules": sorted(ranks), "rank_pattern": others,
        "alpha_pattern": others, "bias": "none", "use_rslora": False, "use_dora": bool(kind & MAGNITUDE), "lora_bias": bool(kind & BIAS),
        "init_lora_weights": True, "fan_in_fan_out": False, "modules_to_save": None, "base_model_name_or_path": None,
    }  # fmt: skip
