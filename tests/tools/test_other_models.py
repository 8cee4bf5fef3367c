"""Networks of families that nobody knows, for models of other sizes: a sentence, not a sum of what does not fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

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


def test_a_style_is_no_more_than_endings_where_the_base_model_is_unknown(tmp_path: Path) -> None:
    path, convert = network(tmp_path / "one.safetensors", 24, "lora"), TOOLS["convert"]
    options: dict[str, Any] = {"model": path, "style": "diffusers", "save_to": tmp_path / "out.safetensors"}
    said = "the layers keep their names, such as wholly.unknown.first: no base model known here has them, so only the endings are those of"
    assert said in convert.plan(**options).text
    result = convert.run(**options)
    assert said in result.text and said in result.report["notes"][0]
    before, after = load_file(path), load_file(tmp_path / "out.safetensors")
    assert after.keys() == {f"{name}.lora_{part}.weight" for name in NAMES for part in "AB"}
    for name in NAMES:
        change = before[f"{name}.lora_up.weight"] @ before[f"{name}.lora_down.weight"]
        torch.testing.assert_close(after[f"{name}.lora_B.weight"] @ after[f"{name}.lora_A.weight"], change)
    assert "keep their names" not in convert.run(**{**options, "style": None, "save_precision": "fp32"}).text
