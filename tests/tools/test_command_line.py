"""The tools on the command line: what people type, what programs read, and recipes that meet an error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lycoris.cli import main
from lib_lycoris.errors import ToolError
from lib_lycoris.tools.arguments import completed, networks_at
from lib_lycoris.tools.cli import fill
from lib_lycoris.tools.registry import tools_of
from lib_lycoris.tools.reshape import resize

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def network(path: Path, seed: int, kind: str = "lora") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    g = torch.Generator().manual_seed(seed)
    names = {"lora": ("lora_up.weight", "lora_down.weight"), "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}[kind]
    shapes = [(320, 4), (4, 320)] * (len(names) // 2)
    tensors = {f"{NAME}.{name}": torch.randn(shape, generator=g) * 0.1 for name, shape in zip(names, shapes)}
    save_file({**tensors, f"{NAME}.alpha": torch.tensor(4.0)}, path, {"ss_base_model_version": "sd_v1"})
    return path


def delta(path: Path) -> torch.Tensor:
    found = load_file(path)
    up, down = found[f"{NAME}.lora_up.weight"], found[f"{NAME}.lora_down.weight"]
    return up @ down * float(found[f"{NAME}.alpha"]) / down.shape[0]


def test_one_ratio_is_for_all_networks_of_folders_and_patterns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, out = network(tmp_path / "in/a.safetensors", 1), network(tmp_path / "in/b.safetensors", 2), tmp_path / "out.safetensors"
    (tmp_path / "in/notes.txt").write_text("no network", encoding="utf-8")
    for given in (str(tmp_path / "in"), str(tmp_path / "in" / "*.safetensors"), str(tmp_path / "in" / "?.*")):
        assert main(["merge", "--models", given, "--ratios", "0,5", "--save_to", str(out)]) == 0
        torch.testing.assert_close(delta(out), 0.5 * (delta(one) + delta(two)), rtol=1e-4, atol=1e-5)
        assert "note: 0,5 is read as 0.5" in capsys.readouterr().err
    assert main(["merge", "--models", str(tmp_path / "nothing*"), "--save_to", str(out)]) == 2
    assert "holds no network file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["merge", "--models", str(one), str(two), "--ratios", "0.7,0.3", "--save_to", str(out)])
    assert "separated by spaces, not commas" in capsys.readouterr().err


def test_a_merge_is_understood_without_torch() -> None:
    """Importing it takes as long as a good part of a merge: the checkpoint is hashed meanwhile."""
    words = ["merge", "--sd_model", "a.safetensors", "--models", "b.safetensors", "--save_to", "c.safetensors"]
    program = f"import sys, lib_lycoris.cli as cli; cli.command_parser()[0].parse_args({words}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_a_folder_that_is_one_network_stays_one(tmp_path: Path) -> None:
    folder = network(tmp_path / "peft/adapter_model.safetensors", 1).parent
    network(tmp_path / "peft/other.safetensors", 2)
    assert networks_at(folder) == [folder]
    (tmp_path / "a[1].safetensors").write_bytes(b"")
    assert networks_at(tmp_path / "a[1].safetensors") == [tmp_path / "a[1].safetensors"]


def test_the_fastest_device_is_taken_where_none_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib_lycoris.tools.arguments.fastest", lambda: "cuda")
    tools = {name: tools_of(name)[-1] for name in ("extract", "measure", "interrogate", "merge")}
    assert {name: completed(tool, {})["device"] for name, tool in tools.items()} == dict.fromkeys(tools, "cuda")
    assert completed(tools["extract"], {"device": "cpu"})["device"] == "cpu"
    assert completed(tools_of("merge")[0], {}).get("device") is None, "a merge into a checkpoint has the same bits everywhere"


def test_each_of_two_ratios_keeps_its_network() -> None:
    given = {"models": [Path("a"), Path("b")], "ratios": [0.7, 0.3], "te": [0.5], "save_to": Path("o")}
    found = completed(tools_of("merge")[1], given)
    assert (found["ratios"], found["te"]) == ([0.7, 0.3], [0.5, 0.5])


@pytest.mark.parametrize("word", ["--no-text_encoder", "--no-text-encoder"])
def test_what_is_on_by_itself_can_be_turned_off(word: str) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    fill(parser, "extract", tools_of("extract"))
    assert parser.parse_args([word]).text_encoder is False
    assert parser.parse_args(["--text_encoder"]).text_encoder is True
    assert not hasattr(parser.parse_args([]), "text_encoder")
    assert word.split("-")[2] in parser.format_help()


def test_reports_and_errors_have_the_same_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, out = str(network(tmp_path / "a.safetensors", 1)), tmp_path / "out.safetensors"
    for words in (
        ("merge", "--models", one), ("resize", "--model", one, "--new_rank", "2"), ("convert", "--model", one, "--style", "diffusers"),
        ("bake", "--model", one, "--ratio", "0.5"),
    ):  # fmt: skip
        assert main([*words, "--save_to", str(out), "--json"]) == 0, words
        report = json.loads(capsys.readouterr().out)
        assert (report["output"], report["bytes"]) == (str(out), out.stat().st_size), words
        assert 0 <= report["seconds"] < 60
    assert main(["compare", "--models", one, one, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["output"], report["bytes"]) == (None, 0) and report["seconds"] >= 0
    assert main(["resize", "--model", str(tmp_path / "no.safetensors"), "--new_rank", "2", "--save_to", str(out), "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["failure"] in captured.err and "no.safetensors" in captured.err


def test_a_resize_counts_what_differs_and_says_when_the_file_grows(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(ToolError, match="nothing to resize: no layer of"):
        resize.run(network(tmp_path / "a.safetensors", 1), out, new_rank=64)
    with pytest.raises(ToolError, match="nothing to resize"):
        resize.plan(model=tmp_path / "a.safetensors", save_to=out, new_rank=64)
    assert not out.exists()
    same = resize.run(tmp_path / "a.safetensors", out, new_rank=64, save_precision="bf16")
    assert same.report["resized"] == 0 and "0 layers resized" in same.text and "the rank is no higher than asked: 1 layer" in same.text
    smaller = resize.run(tmp_path / "a.safetensors", out, new_rank=2)
    assert smaller.report["resized"] == 1 and "1 layer resized" in smaller.text
    assert ("larger" in smaller.text) == (smaller.report["bytes"] > smaller.report["bytes_before"])
    grown = resize.run(network(tmp_path / "h.safetensors", 1, "loha"), out, new_rank=64)
    assert grown.report["resized"] == 1 and grown.report["bytes"] > grown.report["bytes_before"]
    assert "the file is larger than before; 1 layer of other algorithms became LoRA" in grown.text


def recipe(folder: Path, *jobs: dict[str, object]) -> list[str]:
    (folder / "jobs.json").write_text(json.dumps(list(jobs)), encoding="utf-8")
    return ["resize", "--recipe", str(folder / "jobs.json"), "--new_rank", "2"]


def test_a_recipe_looks_for_all_files_before_its_first_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network(tmp_path / "a.safetensors", 1)
    chain = {"model": "a.safetensors", "save_to": "b.safetensors"}, {"model": "b.safetensors", "save_to": "c.safetensors", "new_rank": 1}
    words = recipe(tmp_path, *chain, {"model": "lost.safetensors", "save_to": "no/d.safetensors"})
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "job 3: there is no" in error and "lost.safetensors" in error and "job 3: there is no folder" in error
    assert "job 2" not in error, "its file is written by job 1"
    assert not (tmp_path / "b.safetensors").exists()
    assert main(recipe(tmp_path, *chain)) == 0
    assert (tmp_path / "c.safetensors").is_file()


@pytest.mark.parametrize("name", ["a.safetensors", "x/../a.safetensors", "link.safetensors"])
def test_no_job_of_a_recipe_replaces_what_an_earlier_one_reads(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = network(tmp_path / "a.safetensors", 1).read_bytes()
    (tmp_path / "x").mkdir()
    if name == "link.safetensors":
        os.link(tmp_path / "a.safetensors", tmp_path / name)
    there_and_back = {"model": "a.safetensors", "save_to": "b.safetensors"}, {"model": "b.safetensors", "save_to": name, "new_rank": 1}
    assert main(recipe(tmp_path, *there_and_back)) == 2
    said = capsys.readouterr().err
    assert f"job 2 would replace {Path(name).name}, which job 1 reads" in said and "give --save_to another name" in said
    assert said.count("\n") == 1 and not (tmp_path / "b.safetensors").exists()
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_a_recipe_may_write_its_own_files_again(tmp_path: Path) -> None:
    network(tmp_path / "a.safetensors", 1)
    through = [
        {"model": "a.safetensors", "save_to": "b.safetensors"}, {"model": "b.safetensors", "save_to": "c.safetensors", "new_rank": 1},
        {"model": "a.safetensors", "save_to": "b.safetensors", "new_rank": 3},
    ]  # fmt: skip
    for _ in range(2):  # the second time all of them are there
        assert main(recipe(tmp_path, *through)) == 0


def test_a_recipe_reports_what_was_done_before_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network(tmp_path / "a.safetensors", 1)
    (tmp_path / "bad.safetensors").write_bytes(b"no network at all")
    jobs = [{"model": f"{name}.safetensors", "save_to": f"{i}.safetensors"} for i, name in enumerate(("a", "bad", "a"))]
    assert main([*recipe(tmp_path, *jobs), "--json"]) == 2
    captured = capsys.readouterr()
    done, failed = json.loads(captured.out)
    assert Path(done["output"]).name == "0.safetensors" and failed["job"] == 2 and "bad.safetensors" in failed["failure"]
    assert "1 of 3 jobs done, 1 failed, 1 not finished" in captured.err
    assert not (tmp_path / "2.safetensors").exists()
    assert main([*recipe(tmp_path, *jobs), "--json", "--keep-going"]) == 2
    captured = capsys.readouterr()
    assert ["failure" in report for report in json.loads(captured.out)] == [False, True, False]
    assert "2 of 3 jobs done, 1 failed, 0 not finished" in captured.err
    assert (tmp_path / "2.safetensors").is_file()


def test_concat_is_exact_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, out = network(tmp_path / "a.safetensors", 1), network(tmp_path / "b.safetensors", 2), tmp_path / "out.safetensors"
    words = ["merge", "--models", str(one), str(two), "--ratios", "0.7", "-0.3", "--save_to", str(out), "--concat"]
    for cut in (["--dim", "4"], ["--size", "1"], ["--rule", "energy", "--value", "0.9"], ["--method", "ties"]):
        assert main([*words, *cut]) == 2
        assert f"--concat keeps all ranks and is exact, {cut[0]} {cut[1]}" in capsys.readouterr().err
    assert not out.exists()
    assert main(words) == 0
    assert load_file(out)[f"{NAME}.lora_down.weight"].shape == (8, 320)
    torch.testing.assert_close(delta(out), 0.7 * delta(one) - 0.3 * delta(two), rtol=1e-5, atol=1e-6)


def test_a_plan_tells_what_the_run_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (network(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    assert main(["merge", "--models", str(one), str(two), "--save_to", str(tmp_path / "out.safetensors"), "--dry-run"]) == 0
    assert re.search(r"^about 1 s, memory \d+\.\d MB, disk (under )?0\.1 MB$", capsys.readouterr().out, re.M)


def test_networks_of_zeros_are_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, out = network(tmp_path / "one.safetensors", 1), tmp_path / "out.safetensors"
    save_file({key: tensor * 0 for key, tensor in load_file(one).items()}, tmp_path / "zero.safetensors")
    zero = str(tmp_path / "zero.safetensors")
    for words in ((), ("--dry-run",)):
        assert main(["merge", "--models", zero, zero, "--save_to", str(out), *words]) == 2
        assert "change nothing" in capsys.readouterr().err and not out.exists()
    assert main(["merge", "--models", zero, str(one), "--save_to", str(out)]) == 0
    torch.testing.assert_close(delta(out), delta(one), rtol=1e-4, atol=1e-5)


def test_a_plan_refuses_what_the_run_would(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    one = network(tmp_path / "a.safetensors", 1)
    words = ["resize", "--model", str(one), "--new_rank", "2", "--dry-run", "--save_to"]
    assert main([*words, str(tmp_path / "no" / "out.safetensors")]) == 2
    assert "is not there; make the folder first" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "out.safetensors")]) == 0
    full = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("lib_lycoris.tools.files.output.shutil.disk_usage", lambda folder: full)
    assert main([*words, str(tmp_path / "out.safetensors")]) == 2
    assert "the disk is full" in capsys.readouterr().err
