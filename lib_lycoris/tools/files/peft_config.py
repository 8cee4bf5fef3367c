"""PEFT's adapter_config.json for a network of plain LoRAs."""

from __future__ import annotations

import json
from pathlib import Path

from .compose import Modules


def config_beside(path: Path, style: str, modules: Modules) -> list[Path]:
    """Write PEFT's configuration beside a file that has the name PEFT asks for, and return where."""
    if style != "peft" or path.name != "adapter_model.safetensors":
        return []
    ranks = {name.removeprefix("base_model.model."): t["lora_A.weight"].shape[0] for name, t in modules if "lora_A.weight" in t}
    common = max(set(ranks.values()), key=list(ranks.values()).count, default=1)
    others = {name: rank for name, rank in ranks.items() if rank != common}
    config = {
        "peft_type": "LORA",
        "r": common,
        "lora_alpha": common,
        "target_modules": sorted(ranks),
        "rank_pattern": others,
        "alpha_pattern": others,
        "bias": "none",
    }
    beside = path.with_name("adapter_config.json")
    beside.write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    return [beside]
