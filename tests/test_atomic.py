"""Files are there as a whole or not at all, and what killed runs left is removed by the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib_lycoris import atomic
from lib_lycoris.networks.writer import save
from lib_lycoris.tools import TOOLS


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    atomic.write_text(path, "old")
    with pytest.raises(RuntimeError), atomic.replacing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.json"]
    with atomic.replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["x.json"]


def test_long_names_have_room_for_what_stands_beside_them(tmp_path: Path) -> None:
    path = tmp_path / ("\N{GRINNING FACE}" * 60 + ".json")  # 245 bytes
    atomic.write_text(path, "x")
    assert path.read_text() == "x"


def test_what_a_killed_run_left_is_removed_by_the_next_tool_which_says_so(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from lib_lycoris import atomic\n"
        f"with atomic.replacing(Path({str(tmp_path)!r}) / 'big.safetensors') as part:\n"
        "    part.write_bytes(b'half'); print('ready', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    (left,) = [name for name in os.listdir(tmp_path) if name.endswith(".part")]
    assert atomic.removed_leftovers(tmp_path) == []  # it is still being written
    child.send_signal(signal.SIGKILL)
    child.wait()
    other = tmp_path / ".foreign.part"
    other.write_text("not ours")
    network = {"lora_unet_x.lora_up.weight": torch.ones(4, 2), "lora_unet_x.lora_down.weight": torch.ones(2, 4)}
    save(tmp_path / "net.safetensors", network)
    result = TOOLS["prune"].run(model=tmp_path / "net.safetensors", save_to=tmp_path / "out.safetensors", save_precision="fp16")
    assert left in result.text and result.report["removed_leftovers"] == [left]
    assert sorted(os.listdir(tmp_path)) == [".foreign.part", "net.safetensors", "out.safetensors"]
    assert load_file(tmp_path / "out.safetensors").keys() == network.keys()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    atomic.write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_text(path, "new" * 1000)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x.json"]
