"""A new network file beside a PEFT config that was written for another one: what keeps it from being read by that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ....networks.settings.source import NOTHING, configs_beside

CONFIG = "lora_adapter_metadata"
UNSCALED = {CONFIG: json.dumps({"peft_type": "LORA"})}  # in the file's own metadata, which goes before what lies beside it


def with_own_config(metadata: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return the metadata of a new file; it says that the file has no settings of PEFT where a config in its folder says otherwise."""
    if metadata.get(CONFIG) in NOTHING and configs_beside(path):
        return {**metadata, **UNSCALED}
    return dict(metadata)
