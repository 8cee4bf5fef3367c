"""Files of torch.save are read without torch, and without Python's pickle: nothing in them is looked up or run."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib_lycoris import load
from lib_lycoris.errors import NetworkFormatError
from lib_lycoris.models import reference

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TENSORS = {f"{LAYER}.lora_up.weight": torch.randn(320, 2), f"{LAYER}.lora_down.weight": torch.randn(2, 320)}


@pytest.fixture(autouse=True)
def no_other_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of torch or Python could run what a file says fails the test."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a reader that runs what the file says was asked")

    for owner, name in ((torch, "load"), (torch.jit, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(owner, name, refused)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".bin"])
def test_plain_tensors_are_read(zipped: bool, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"style{ending}"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=zipped)
    (patch,) = load(path, reference("sd1")).patches.values()
    up, down = TENSORS.values()
    torch.testing.assert_close(patch.delta(torch.zeros(320, 320)), up @ down)


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.mkdir, (self.place,)


def script(place: Path) -> bytes:
    """Return a TorchScript archive, which torch before 2.6 runs even with its weights-only reader."""

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    archive = io.BytesIO()
    torch.jit.save(torch.jit.trace(Module(), torch.ones(1)), archive)
    return archive.getvalue()


def plain_pickle(place: Path) -> bytes:
    return pickle.dumps({"a": Harmful(place)})


def zipped_pickle(place: Path) -> bytes:
    archive = io.BytesIO()
    torch.save({**TENSORS, "a": Harmful(place)}, archive)
    return archive.getvalue()


def zip_with_more(place: Path) -> bytes:
    archive = io.BytesIO()
    torch.save(TENSORS, archive)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("archive/code/__torch__.py", "import os")
    return archive.getvalue()


@pytest.mark.parametrize("made", [script, plain_pickle, zipped_pickle, zip_with_more])
def test_what_would_run_something_is_refused_and_nothing_runs(made: Callable[[Path], bytes], tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    path.write_bytes(made(tmp_path / "was-run"))
    with pytest.raises(NetworkFormatError, match=r"evil\.pt"):
        load(path, reference("sd1"))
    assert not (tmp_path / "was-run").exists()
