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
from tests.corpus.test_corpus import CORPUS, layers_of

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


@pytest.mark.parametrize("leaf", ["scale", "weight"])
def test_a_checkpoint_may_call_the_scale_of_its_norms_weight(leaf: str, tmp_path: Path) -> None:
    """Flux' own files say ``scale``, those of some converters ``weight``: the same model, of which all is read and written."""
    folder = CORPUS / "w2" / "w2_names_norm_scale"
    base = {f"model.{name}.weight": layer["weight"] for name, layer in layers_of(folder / "case.json").items()}
    base = {key.replace("_norm.weight", f"_norm.{leaf}"): value.contiguous() for key, value in base.items()}
    save(tmp_path / "base.safetensors", base)
    save(tmp_path / "tuned.safetensors", {key: value + 0.1 for key, value in base.items()})
    found = TOOLS["measure"].run(model_org=tmp_path / "base.safetensors", model_tuned=tmp_path / "tuned.safetensors")
    assert found.report["layers"] == len(base)
    out = tmp_path / "out.safetensors"
    TOOLS["merge"].run(sd_model=tmp_path / "base.safetensors", models=[folder / "network.safetensors"], save_to=out)
    merged = load_file(out)
    changed = [key for key in base if not torch.equal(merged[key], base[key])]
    assert any(key.endswith(f"_norm.{leaf}") for key in changed)
    assert TOOLS["verify"].run(merged=out, folders=[folder]).report["identical"]
