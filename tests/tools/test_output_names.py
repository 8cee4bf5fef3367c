"""Outputs have names that a tag can ask for and that every system can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lib_lycoris.errors import ToolError
from lib_lycoris.networks.writer import save
from lib_lycoris.tools import TOOLS


@pytest.mark.parametrize(
    "name", ["a:b.safetensors", "a>b.safetensors", " a.safetensors", "a .safetensors", "a\\b.safetensors", "CON.safetensors",
             "lpt1.x.safetensors",
             "a?.safetensors", "a\n.safetensors", "CONIN$.safetensors", "com\N{SUPERSCRIPT TWO}.safetensors", "a\x7f.safetensors",
             "a\u202eb.safetensors"],
)  # fmt: skip
def test_a_name_that_nobody_could_use_is_refused(name: str, tmp_path: Path) -> None:
    save(tmp_path / "net.safetensors", {"lora_unet_x.lora_up.weight": torch.ones(4, 2), "lora_unet_x.lora_down.weight": torch.ones(2, 4)})
    with pytest.raises(ToolError, match="cannot be the name of an output"):
        TOOLS["prune"].run(model=tmp_path / "net.safetensors", save_to=tmp_path / name, save_precision="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize("name", ["\N{GRINNING FACE} style (v2), [x] = 'y'.safetensors", "console.safetensors", "a.b.c.safetensors"])
def test_unusual_names_that_work_are_written(name: str, tmp_path: Path) -> None:
    save(tmp_path / "net.safetensors", {"lora_unet_x.lora_up.weight": torch.ones(4, 2), "lora_unet_x.lora_down.weight": torch.ones(2, 4)})
    TOOLS["prune"].run(model=tmp_path / "net.safetensors", save_to=tmp_path / name, save_precision="fp16")
    assert (tmp_path / name).is_file()


@pytest.mark.parametrize("name", ["a", "a.pt", "a.ckpt", "a.safetensor", "a.SAFETENSORS", ".safetensors"])
@pytest.mark.parametrize("tool", ["convert", "resize", "bake", "prune", "networks_merge", "extract"])
def test_an_ending_that_no_program_lists_is_refused(tool: str, name: str, tmp_path: Path) -> None:
    """Before anything is read: the inputs need not even be there."""
    given: dict[str, Any] = {
        "convert": {}, "resize": {"new_rank": 1}, "bake": {"ratio": 0.5}, "prune": {}, "networks_merge": {"models": [tmp_path / "net"]},
        "extract": {"model_org": tmp_path / "one", "model_tuned": tmp_path / "two"},
    }[tool]  # fmt: skip
    if tool in ("convert", "resize", "bake", "prune"):
        given["model"] = tmp_path / "net"
    for run in (TOOLS[tool].run, TOOLS[tool].plan):
        with pytest.raises(ToolError, match=r"must end in \.safetensors, the format that networks are written in and programs list"):
            run(save_to=tmp_path / name, **given)
    assert not list(tmp_path.iterdir())
