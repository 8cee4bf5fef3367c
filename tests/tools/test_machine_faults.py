"""What a machine does to a run is a sentence; a fault of ours stays what it is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib_lycoris.cli import main
from lib_lycoris.errors import NetworkFormatError, ToolError, naming
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.files.output import Output
from lib_lycoris.tools.jobs.faults import machine_faults
from lib_lycoris.tools.jobs.progress import Progress, ProgressState
from tests.fuzz.tiny_files import prepared


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (FileNotFoundError(2, "No such file or directory", "/secret/place/a.safetensors"), "^a.safetensors cannot be used: No such file"),
        (MemoryError(), "not enough memory"), (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 99 bytes"), "not enough memory"),
    ],
)  # fmt: skip
def test_what_the_machine_does_is_a_sentence(error: Exception, sentence: str) -> None:
    with pytest.raises(ToolError, match=sentence), machine_faults():
        raise error


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_a_network_for_which_there_is_no_memory_is_not_called_broken(error: Exception) -> None:
    with pytest.raises(NetworkFormatError, match=r"^a\.safetensors needs more memory than there is"), naming(Path("x/a.safetensors")):
        raise error


def test_faults_of_ours_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shapes"), machine_faults():
        raise RuntimeError("shapes do not fit")


@pytest.mark.parametrize("name", ["extract", "resize", "networks_merge", "merge"])
def test_memory_that_runs_out_leaves_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = prepared(tmp_path)
    options: dict[str, dict[str, Any]] = {
        "extract": {"model_org": tmp_path / "base.safetensors", "model_tuned": tmp_path / "tuned.safetensors", "dim": 2},
        "resize": {"model": tmp_path / "one.safetensors", "new_rank": 1},
        "networks_merge": {"models": [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]},
        "merge": {"sd_model": tmp_path / "base.safetensors", "models": [tmp_path / "one.safetensors"]},
    }
    write, calls = Output.write, []

    def failing(self: Output, data: Any) -> None:
        calls.append(1)
        if len(calls) > 2:
            raise MemoryError
        write(self, data)

    monkeypatch.setattr(Output, "write", failing)
    with pytest.raises(ToolError, match="not enough memory"):
        TOOLS[name].run(**options[name], save_to=tmp_path / "out.safetensors")
    assert sorted(os.listdir(tmp_path)) == sorted(inputs)
    assert all((tmp_path / one).read_bytes() == data for one, data in inputs.items())


def test_a_checkpoint_that_is_changed_while_it_is_merged_makes_no_file(tmp_path: Path) -> None:
    """The merged file was a mixture then, whose recipe and undo file were of another: verify and undo refused it."""
    prepared(tmp_path)
    base, before = tmp_path / "base.safetensors", sorted(path.name for path in tmp_path.iterdir())

    def change(state: ProgressState) -> None:
        with base.open("r+b") as file:
            file.seek(-2, os.SEEK_END)
            file.write(b"\0\0")
        os.utime(base, ns=(0, 0))  # a clock of coarse steps has not moved on yet

    options = {"sd_model": base, "models": [tmp_path / "one.safetensors"], "undo_file": tmp_path / "m.undo"}
    with pytest.raises(ToolError, match=r"^base\.safetensors was changed while it was read"):
        TOOLS["merge"].run(Progress(change), **options, save_to=tmp_path / "m.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_undo_file_gets_its_name_after_its_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared(tmp_path)
    replace: Callable[..., None] = os.replace
    order: list[str] = []

    def noted(source: Any, target: Any) -> None:
        order.append(Path(target).name)
        if Path(target).name == "new.undo":
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    with pytest.raises(ToolError, match=r"new\.undo could not be written"):
        TOOLS["merge"].run(
            sd_model=tmp_path / "base.safetensors", models=[tmp_path / "one.safetensors"], save_to=tmp_path / "new.safetensors",
            undo_file=tmp_path / "new.undo",
        )  # fmt: skip
    assert order == ["new.safetensors", "new.undo"] and not (tmp_path / "new.undo").exists()


@pytest.mark.slow
def test_a_name_that_the_terminal_lacks_is_printed_by_its_code(tmp_path: Path) -> None:
    prepared(tmp_path)
    (tmp_path / "one.safetensors").rename(tmp_path / "\udcff.safetensors")
    words = [sys.executable, "-m", "lib_lycoris", "metadata", str(tmp_path / "\udcff.safetensors"), "--json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(words, env=environment, cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no file that is always full")
def test_a_place_for_the_output_that_is_full_is_one_sentence(tmp_path: Path) -> None:
    prepared(tmp_path)
    words = [sys.executable, "-m", "lib_lycoris", "inspect", str(tmp_path / "one.safetensors"), "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 2 and done.stderr.strip() == "error: the output cannot be written: No space left on device"


def test_without_a_folder_for_temporary_files_a_verb_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def imported(*_: Any) -> None:  # as torch is: it asks for such a folder
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
        tempfile.gettempdir()

    monkeypatch.setattr("lib_lycoris.cli._inspect", imported)
    assert main(["inspect", str(tmp_path / "a.safetensors")]) == 2
    assert capsys.readouterr().err == "error: no folder for temporary files can be written to; name one in TMPDIR\n"
