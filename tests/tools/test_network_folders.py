"""A folder as PEFT saves one is a network to every tool that takes one, with the result that the file in it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lycoris import inspect
from lib_lycoris.demo import CHECKPOINT
from lib_lycoris.errors import LycorisError, ToolError
from lib_lycoris.tools.examine.network_spectra import network_spectra
from lib_lycoris.tools.registry import load_tools

LAYERS = {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": 32, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": 64}
FILE = "adapter_model.safetensors"
TOOLS = load_tools()
# tool -> its other options
ASKED: dict[str, dict[str, Any]] = {
    "merge": {"sd_model": CHECKPOINT, "ratios": [0.7]}, "networks_merge": {"base_model": CHECKPOINT, "ratios": [0.7]},
    "convert": {"base_model": CHECKPOINT, "style": "kohya"}, "resize": {"base_model": CHECKPOINT, "new_rank": 1},
    "slim": {"base_model": CHECKPOINT, "new_rank": 1}, "bake": {"sd_model": CHECKPOINT, "ratio": 0.5},
    "split": {"ranks": [1]}, "prune": {}, "compare": {"base_model": CHECKPOINT}, "interrogate": {"base_model": CHECKPOINT},
    "metadata": {}, "find": {"library": []}, "verify": {},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    g, tensors = torch.Generator().manual_seed(2), {}
    for index, (layer, size) in enumerate(LAYERS.items()):
        tensors[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(2, 64, generator=g) * index  # the first is dead
        tensors[f"base_model.model.{layer}.lora_B.weight"] = torch.randn(size, 2, generator=g)
    (tmp_path / "style").mkdir()
    save_file(tensors, tmp_path / "style" / FILE)
    (tmp_path / "style/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6}))
    return tmp_path / "style"


def test_every_tool_that_takes_networks_is_asked() -> None:
    takes = {name for name, tool in TOOLS.items() if any(option.kind in ("network", "networks") for option in tool.options)}
    assert takes <= ASKED.keys()


WRITES = ("merge", "networks_merge", "convert", "resize", "slim", "bake", "split", "prune")


@pytest.mark.parametrize("name", WRITES)
def test_what_is_made_of_a_folder_is_made_of_the_file_in_it(name: str, folder: Path, tmp_path: Path) -> None:
    tool, made = TOOLS[name], []
    option = next(option.name for option in tool.options if option.kind in ("network", "networks"))
    for number, path in enumerate((folder, folder / FILE)):
        given: Any = [path] if option == "models" else path
        options = {**ASKED[name], option: given, "save_to": tmp_path / f"made{number}.safetensors"}
        tool.plan(**options)
        made.append(load_file(tool.run(**options).outputs[0]))
    one, other = made
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", [name for name in WRITES if name != "split"])  # which adds a rank to the name
def test_the_network_in_a_folder_is_not_written_over(name: str, folder: Path) -> None:
    tool, before = TOOLS[name], (folder / FILE).read_bytes()
    option = next(option.name for option in tool.options if option.kind in ("network", "networks"))
    with pytest.raises(ToolError, match="is an input"):
        tool.run(**{**ASKED[name], option: [folder] if option == "models" else folder, "save_to": folder / FILE})
    assert (folder / FILE).read_bytes() == before


def test_a_merge_of_a_folder_is_verified_with_it(folder: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.safetensors"
    TOOLS["merge"].run(sd_model=CHECKPOINT, models=[folder], save_to=merged)
    assert TOOLS["verify"].run(merged=merged, sd_model=CHECKPOINT).report["identical"]  # it lies beside the merged file
    assert TOOLS["verify"].run(merged=merged, sd_model=CHECKPOINT, models=[folder]).report["identical"]


def test_a_folder_is_looked_at_by_its_own_name(folder: Path) -> None:
    assert inspect(folder).name == "style" and inspect(folder).matched_keys == 4
    (described,) = TOOLS["compare"].run(models=[folder], base_model=CHECKPOINT).report["networks"]
    assert described["name"] == "style" and len(described["dead"]) == 1
    assert TOOLS["interrogate"].run(model=folder, base_model=CHECKPOINT, count=3).report["words"]
    assert TOOLS["metadata"].run(models=[folder]).report["files"][0]["file"] == str(folder / FILE)
    assert TOOLS["find"].run(library=[folder], model=folder).report["is"] == []  # the file itself is none of the others


def test_the_folder_that_one_is_in_is_told_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it holds no network."""
    monkeypatch.chdir(folder)
    assert inspect(".").name == "style"
    (described,) = TOOLS["compare"].run(models=["."], base_model=CHECKPOINT).report["networks"]
    assert described["name"] == "style"
    monkeypatch.chdir(folder.parent)
    for model in (".", "style/.."):
        with pytest.raises(LycorisError, match=folder.parent.name):
            TOOLS["interrogate"].run(model=model, base_model=CHECKPOINT)


def test_spectra_are_those_of_the_file_as_it_is_now(folder: Path) -> None:
    first = network_spectra(folder, CHECKPOINT)[0]
    tensors = {key: tensor * 2 for key, tensor in load_file(folder / FILE).items()}
    save_file(tensors, folder / FILE)
    assert sum(layer.energy for layer in network_spectra(folder, CHECKPOINT)[0].layers) > 10 * sum(layer.energy for layer in first.layers)
