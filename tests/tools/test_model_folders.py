"""Base models in folders: a component alone, an original model in numbered files, and folders that are no whole model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lib_lycoris
from lib_lycoris.errors import ToolError

G = torch.Generator().manual_seed(11)
WIDTH = 16
ATTENTION = [f"blocks.{block}.{kind}_attn.{part}" for block in range(3) for kind in ("self", "cross") for part in "qkvo"]
FEED_FORWARD = [f"blocks.{block}.ffn.{part}" for block in range(3) for part in (0, 2)]


def wan() -> dict[str, Tensor]:
    """Return a tiny Wan under its original names."""
    shapes = dict.fromkeys(ATTENTION, (WIDTH, WIDTH))
    shapes |= {name: (32, WIDTH) if name.endswith("0") else (WIDTH, 32) for name in FEED_FORWARD}
    return {f"{name}.weight": torch.randn(*shape, generator=G) for name, shape in shapes.items()}


def split(tensors: dict[str, Tensor], folder: Path, count: int = 3) -> Path:
    """Write a model into numbered files with their index."""
    folder.mkdir(parents=True)
    names = [f"model-{number + 1:05}-of-{count:05}.safetensors" for number in range(count)]
    where = {key: names[place % count] for place, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({key: tensors[key] for key in tensors if where[key] == name}, folder / name)
    size = sum(tensor.numel() * 4 for tensor in tensors.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": where}))
    return folder


def network(model: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Write a network on all layers; return each key's change at strength 1."""
    tensors, changes = {}, {}
    for key, weight in model.items():
        up, down = torch.randn(weight.shape[0], 2, generator=G), torch.randn(2, weight.shape[1], generator=G)
        layer = "lora_unet_" + key[: -len(".weight")].replace(".", "_")
        tensors |= {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down, f"{layer}.alpha": torch.tensor(1.0)}
        changes[key] = up @ down / 2
    save_file(tensors, path)
    return changes


def read(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder."""
    return {key: tensor for file in sorted(folder.glob("*.safetensors")) for key, tensor in load_file(file).items()}


def test_a_model_in_numbered_files_is_merged_verified_and_restored(tmp_path: Path) -> None:
    model = wan()
    base = split(model, tmp_path / "base")
    changes = network(model, tmp_path / "style.safetensors")
    merged, undo = tmp_path / "merged", tmp_path / "merged.undo"
    lib_lycoris.merge(models=[tmp_path / "style.safetensors"], ratios=[-0.5], save_to=merged, sd_model=base, undo_file=undo)
    found = read(merged)
    assert found.keys() == model.keys()
    for key, change in changes.items():
        torch.testing.assert_close(found[key], model[key] - 0.5 * change, atol=1e-5, rtol=0)
    assert lib_lycoris.verify(merged=merged, sd_model=base, models=[tmp_path / "style.safetensors"]).report["identical"]
    lib_lycoris.undo(merged=merged, undo_file=undo, save_to=tmp_path / "again")
    assert {file.name for file in base.iterdir()} == {file.name for file in (tmp_path / "again").iterdir()}
    assert all(file.read_bytes() == (tmp_path / "again" / file.name).read_bytes() for file in base.iterdir())


def test_a_component_alone_is_a_model(tmp_path: Path) -> None:
    model = wan()
    changes = network(model, tmp_path / "style.safetensors")
    folder = tmp_path / "transformer"
    folder.mkdir()
    save_file(model, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text("{}")
    lib_lycoris.merge(models=[tmp_path / "style.safetensors"], save_to=tmp_path / "merged", sd_model=folder)
    found = read(tmp_path / "merged")
    assert all(torch.allclose(found[key], model[key] + change, atol=1e-5) for key, change in changes.items())
    assert (tmp_path / "merged" / "config.json").read_text() == "{}"


@pytest.mark.parametrize("place", ["transformer", "."])
def test_a_missing_file_is_named(tmp_path: Path, place: str) -> None:
    model = wan()
    base = split(model, tmp_path / "base" / place) if place != "." else split(model, tmp_path / "base")
    network(model, tmp_path / "style.safetensors")
    (base / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ToolError, match=re.escape(f"{base.name}/model-00002-of-00003.safetensors is missing, one of the 3 files")):
        lib_lycoris.merge(models=[tmp_path / "style.safetensors"], save_to=tmp_path / "merged", sd_model=tmp_path / "base")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model-00002-of-00003.gguf", "is one of the 3 files of a model; join them"),
        ("model-00001-of-00003.safetensors", "is one of the 3 files of a model; give the folder"),
        ("model.safetensors.index.json", "only lists the files of a model; give the folder"),
    ],
)
def test_a_part_of_a_model_is_refused(tmp_path: Path, name: str, said: str) -> None:
    model = wan()
    base = split(model, tmp_path / "base")
    (base / "model-00002-of-00003.gguf").write_bytes(b"GGUF")
    network(model, tmp_path / "style.safetensors")
    with pytest.raises(ToolError, match=f"{re.escape(name)} {said}"):
        lib_lycoris.merge(models=[tmp_path / "style.safetensors"], save_to=tmp_path / "merged.safetensors", sd_model=base / name)


def test_a_folder_of_several_models_is_none(tmp_path: Path) -> None:
    model = wan()
    network(model, tmp_path / "style.safetensors")
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("a.safetensors", "b.safetensors"):
        save_file(model, folder / name)
    with pytest.raises(ToolError, match="models is no model's folder"):
        lib_lycoris.merge(models=[tmp_path / "style.safetensors"], save_to=tmp_path / "merged", sd_model=folder)


def test_two_files_with_one_tensor_are_refused(tmp_path: Path) -> None:
    model = wan()
    base = split(model, tmp_path / "base" / "transformer")
    save_file(model, base / "model.safetensors")
    network(model, tmp_path / "style.safetensors")
    with pytest.raises(ToolError, match=r"both hold transformer\.blocks\."):
        lib_lycoris.merge(models=[tmp_path / "style.safetensors"], save_to=tmp_path / "merged", sd_model=tmp_path / "base")
