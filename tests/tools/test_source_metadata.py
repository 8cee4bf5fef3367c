"""What is written about a result: the metadata of merged networks, and what an extracted one is to be sampled as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_lycoris.tools.extract import extract
from lib_lycoris.tools.merge import networks

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
WEIGHT = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
ABOUT = {
    "modelspec.author": "Ann", "modelspec.license": "CC-BY-4.0", "modelspec.usage_hint": "0.7", "modelspec.description": "ink",
    "modelspec.thumbnail": "data:image/png;base64,AAAA", "modelspec.title": "Ink", "modelspec.trigger_phrase": "ink",
    "ss_tag_frequency": json.dumps({"10_ink": {"ink": 3, "wash": 1}}), "ss_base_model_version": "sd_v1", "ss_network_dim": "4",
}  # fmt: skip


def network(path: Path, seed: int, **changed: str) -> Path:
    g = torch.Generator().manual_seed(seed)
    tensors = {
        f"{NAME}.lora_up.weight": torch.randn(320, 4, generator=g), f"{NAME}.lora_down.weight": torch.randn(4, 320, generator=g),
        f"{NAME}.alpha": torch.tensor(4.0),
    }  # fmt: skip
    save_file(tensors, path, {**ABOUT, **{key.replace("__", "."): value for key, value in changed.items()}})
    return path


def said(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def test_a_single_network_keeps_everything_that_it_says(tmp_path: Path) -> None:
    one, out = network(tmp_path / "one.safetensors", 1), tmp_path / "out.safetensors"
    for models in ([one], [one, one]):
        result = networks.run(models=models, ratios=[0.5] * len(models), save_to=out)
        found = said(out)
        assert {key: found[key] for key in ABOUT if key != "ss_network_dim"} == {k: v for k, v in ABOUT.items() if k != "ss_network_dim"}
        assert result.report["metadata_left_out"] == []
    assert found["ss_network_dim"] == "8", "of the new tensors, not of the old ones"
    assert json.loads(found["lycoris.recipe"])["tool"] == "networks_merge"


def test_several_networks_join_tags_keep_what_agrees_and_name_the_sources(tmp_path: Path) -> None:
    tags = json.dumps({"10_ink": {"ink": 2}, "5_pen": {"pen": 7, "bad": "x"}})
    one = network(tmp_path / "one.safetensors", 1)
    two = network(tmp_path / "two.safetensors", 2, modelspec__author="Bob", modelspec__trigger_phrase="pen", ss_tag_frequency=tags)
    three = network(tmp_path / "three.safetensors", 3, ss_tag_frequency="[[no table")
    out = tmp_path / "out.safetensors"
    result = networks.run(models=[one, two, three], save_to=out)
    found = said(out)
    assert json.loads(found["ss_tag_frequency"]) == {"10_ink": {"ink": 5, "wash": 1}, "5_pen": {"pen": 7}}
    assert found["modelspec.license"] == "CC-BY-4.0" and found["modelspec.thumbnail"] == ABOUT["modelspec.thumbnail"]
    assert "modelspec.author" not in found
    assert result.report["metadata_left_out"] == ["modelspec.author"] and "left out: modelspec.author" in result.text
    assert set(found["modelspec.merged_from"].split(", ")) == {"one.safetensors", "two.safetensors", "three.safetensors"}
    assert set(found["modelspec.trigger_phrase"].split(", ")) == {"ink", "pen"}
    assert found["modelspec.title"] == "out"


@pytest.mark.parametrize(
    ("old", "new", "marked", "written", "warned"),
    [
        ({"modelspec.prediction_type": "epsilon"}, {"modelspec.prediction_type": "v"}, False, "v", True),
        ({}, {"modelspec.prediction_type": "v_prediction"}, False, "v", True),
        ({}, {}, True, "v", True),
        ({"modelspec.prediction_type": "v"}, {"ss_v_parameterization": "True"}, False, "v", False),
        ({"modelspec.prediction_type": "v"}, {"modelspec.prediction_type": "epsilon"}, False, "epsilon", True),
        ({}, {"modelspec.prediction_type": "epsilon"}, False, "epsilon", False),
        ({}, {}, False, None, False),
    ],
)
def test_an_extraction_across_predictions_says_so(
    tmp_path: Path, old: dict[str, str], new: dict[str, str], marked: bool, written: str | None, warned: bool
) -> None:
    base, tuned, out = (tmp_path / f"{name}.safetensors" for name in ("base", "tuned", "out"))
    weights = {WEIGHT: torch.randn(48, 48)}
    save_file(weights, base, old)
    save_file({WEIGHT: weights[WEIGHT] + torch.randn(48, 48), **({"v_pred": torch.zeros(0)} if marked else {})}, tuned, new)
    planned = extract.plan(model_org=base, model_tuned=tuned, save_to=out, dim=4)
    result = extract.run(model_org=base, model_tuned=tuned, save_to=out, dim=4)
    assert said(out).get("modelspec.prediction_type") == written
    assert bool(result.report["warnings"]) == warned == bool(planned.report["warnings"])
    assert (f"predicts {written}, base.safetensors" in result.text) == warned
    assert load_file(out)[f"{NAME}.lora_up.weight"].shape == (48, 4)
