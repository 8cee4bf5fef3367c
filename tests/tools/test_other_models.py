"""Networks of families that nobody knows, for models of other sizes: a sentence, not a sum of what does not fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lib_lycoris.errors import ModelMismatchError
from lib_lycoris.networks.writer import save
from lib_lycoris.tools import TOOLS

NAMES = ("wholly.unknown.first", "wholly.unknown.second")


def network(path: Path, rows: int, kind: str) -> Path:
    for_each = {"diff": {"diff": (rows, 16)}, "lora": {"lora_up.weight": (rows, 4), "lora_down.weight": (4, 16)}}[kind]
    save(path, {f"{name}.{suffix}": torch.randn(shape) for name in NAMES for suffix, shape in for_each.items()})
    return path


@pytest.mark.parametrize("kind", ["diff", "lora"])
@pytest.mark.parametrize("tool", ["compare", "networks_merge"])
def test_networks_for_models_of_other_sizes_are_not_put_together(tool: str, kind: str, tmp_path: Path) -> None:
    files = [network(tmp_path / "one.safetensors", 24, kind), network(tmp_path / "two.safetensors", 40, kind)]
    options: dict[str, Any] = {"networks_merge": {"ratios": [1.0, 1.0], "save_to": tmp_path / "out.safetensors"}}.get(tool, {})
    with pytest.raises(ModelMismatchError, match=r"is for another model than the network before it: wholly\.unknown\.first"):
        TOOLS[tool].run(models=files, **options)
    assert not (tmp_path / "out.safetensors").exists()
