"""One tool over many files: past errors, one report, and safe to run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lycoris.cli import main
from lib_lycoris.tools.bulk import REPORT

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def network(path: Path, seed: int, rank: int = 4) -> Path:
    g = torch.Generator().manual_seed(seed)
    tensors = {"lora_up.weight": torch.randn(320, rank, generator=g), "lora_down.weight": torch.randn(rank, 320, generator=g)}
    save_file({f"{NAME}.{suffix}": tensor for suffix, tensor in tensors.items()}, path, {"ss_base_model_version": "sd_v1"})
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    for seed, name in enumerate("abc"):
        network(old / f"{name}.safetensors", seed)
    (old / "bad.safetensors").write_bytes(b"nothing")
    return old, new


def bulk(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    code = main([*map(str, words), "--json", "--quiet"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "verb",
    [("resize", "--new_rank", "2"), ("convert", "--save_precision", "fp16"), ("bake", "--ratio", "0.5"), ("slim", "--new_rank", "1")],
)
def test_every_file_is_done_past_the_one_that_fails(
    verb: tuple[str, ...], folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = folders
    code, report = bulk(capsys, *verb, "--each", old, "--save_into", new)
    assert (code, report["done"], report["skipped"], report["failed"], report["ok"]) == (2, 3, 0, 1, False)
    assert sorted(path.name for path in new.iterdir()) == ["a.safetensors", "b.safetensors", "c.safetensors", REPORT]
    failed = next(row for row in report["files"] if row["result"] == "failed")
    assert "bad.safetensors" in failed["failure"] and failed["input"].endswith("bad.safetensors")
    assert (report["output"], report["bytes"]) == (str(new), sum((new / f"{name}.safetensors").stat().st_size for name in "abc"))
    assert json.loads((new / REPORT).read_text("utf-8"))["files"].keys() == {f"{name}.safetensors" for name in ("a", "b", "c", "bad")}


def test_a_second_run_skips_what_is_there_and_equal(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = folders
    words = ("resize", "--new_rank", "2", "--each", old / "?.safetensors", "--save_into", new)
    assert bulk(capsys, *words)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in new.glob("*.safetensors")}
    assert bulk(capsys, *words)[1]["skipped"] == 3
    assert {path: path.stat().st_mtime_ns for path in new.glob("*.safetensors")} == before
    network(old / "a.safetensors", 77)
    (new / "b.safetensors").write_bytes(b"somebody's")
    (new / "c.safetensors").unlink()
    code, report = bulk(capsys, *words)
    assert (code, report["done"], report["skipped"]) == (0, 3, 0), "another input, a changed and a missing result are done again"
    code, report = bulk(capsys, "resize", "--new_rank", "1", *words[3:])
    assert report["done"] == 3 and load_file(new / "a.safetensors")[f"{NAME}.lora_down.weight"].shape[0] == 1


def test_files_in_subfolders_are_told_and_a_name_is_said_once(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = folders
    (old / "sub").mkdir()
    network(old / "sub" / "d.safetensors", 5)
    (old / "bad.safetensors").write_bytes(b"not a network\n")
    main(["resize", "--new_rank", "2", "--each", str(old), "--save_into", str(new), "--quiet"])
    said = capsys.readouterr().err
    assert f"note: {old}: 1 file in its subfolders left out; give these folders too" in said
    assert "error: bad.safetensors is a text, not a network; it says: not a network\n" in said


def test_a_plan_of_many_files_writes_nothing(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = folders
    code, report = bulk(capsys, "resize", "--new_rank", "2", "--each", old, "--save_into", new, "--dry-run")
    assert (code, report["failed"], list(new.iterdir())) == (2, 1, [])


def test_what_cannot_be_meant_is_refused(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = folders
    (tmp_path / "more").mkdir()
    for name in "az":
        network(tmp_path / f"more/{name}.safetensors", 5)
    for words, said in (
        (("--each", old), "--save_into"), (("--each", old, "--save_into", tmp_path / "nothing"), "make the folder first"),
        (("--each", old, "--save_into", old), "written over"), (("--each", old, tmp_path / "more", "--save_into", new), "both become"),
        (("--each", old, "--save_into", new, "--model", old / "a.safetensors"), "leave out --model"),
    ):  # fmt: skip
        code, report = bulk(capsys, "resize", "--new_rank", "2", *words)
        assert code == 2 and said in report.get("failure", ""), (words, report)
    assert not any(new.iterdir())


def test_a_command_line_that_cannot_be_read_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["resize", "--new_rank", "many", "--json"])
    captured = capsys.readouterr()
    assert ended.value.code == 2 and json.loads(captured.out)["kind"] == "UsageError"
    assert "--new_rank" in json.loads(captured.out)["failure"] and "--new_rank" in captured.err
    assert main(["resise", "--json"]) == 2
    assert "did you mean resize" in json.loads(capsys.readouterr().out)["failure"]
