"""Checkpoints that are broken or half there: named with the tensor, never merged or extracted as if nothing were wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lycoris.errors import NetworkFormatError, ToolError
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.files.checkpoints.checkpoint import open_checkpoint
from tests.tools.test_extract import base, low_rank, tuned_by  # noqa: F401 - base is a fixture
from tests.tools.test_merge import FC1, Q, diffusers_folder, files, small  # noqa: F401 - fixtures

MERGE, EXTRACT = TOOLS["merge"], TOOLS["extract"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["tuned", "base"])
def test_extract_names_the_tensor_that_is_broken(which: str, value: float, base: Path, tmp_path: Path) -> None:  # noqa: F811
    tuned = tuned_by(base, low_rank(2))
    broken = {"tuned": tuned, "base": base}[which]
    tensors = load_file(broken)
    key = next(key for key, tensor in tensors.items() if key.startswith("model.diffusion_model") and tensor.dim() == 2)
    tensors[key][0, 0] = value
    save_file(tensors, broken)
    with pytest.raises(ToolError, match=rf"{broken.name} is broken: .* holds NaN or infinity"):
        EXTRACT.run(model_org=base, model_tuned=tuned, save_to=tmp_path / "out.safetensors", dim=2)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("precision", [None, "fp32", "bf16", "fp8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_merge_names_the_tensor_that_is_broken(value: float, precision: str | None, files: Path) -> None:  # noqa: F811
    tensors = small()
    tensors[Q][3, 3] = value
    save_file(tensors, files / "base.safetensors")
    with pytest.raises(ToolError, match=rf"base.safetensors is broken: {Q} holds NaN or infinity before anything is merged"):
        MERGE.run(
            sd_model=files / "base.safetensors", models=[files / "one.safetensors"], save_to=files / "out.safetensors",
            save_precision=precision,
        )  # fmt: skip
    assert not (files / "out.safetensors").exists()


def test_a_folder_with_a_pickled_text_encoder_is_read_and_not_written_without_it(files: Path, diffusers_folder: Path) -> None:  # noqa: F811
    text = diffusers_folder / "text_encoder/model.safetensors"
    torch.save(load_file(text), diffusers_folder / "text_encoder/pytorch_model.bin")
    text.unlink()
    assert f"text_encoder.{FC1.removeprefix('cond_stage_model.transformer.')}" in open_checkpoint(diffusers_folder).entries
    with pytest.raises(ToolError, match=r"text_encoder\.pytorch_model\.bin of pipe is no \.safetensors file"):
        MERGE.run(sd_model=diffusers_folder, models=[files / "one.safetensors"], save_to=files / "merged")
    assert not (files / "merged").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize("content", [b"the page is gone\n" * 9, b"%PDF-1.7\n" * 9, b"\x89PNG\r\n" + bytes(60)])
def test_what_is_no_file_of_weights_is_no_checkpoint(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NetworkFormatError, match=rf"^{name} is an? .*, not a checkpoint"):
        open_checkpoint(tmp_path / name)
