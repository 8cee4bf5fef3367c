"""A library asked: equal and similar files, which network a file is, what a checkpoint is made of, which base models are needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lycoris.cli import main
from lib_lycoris.demo import CHECKPOINT, NETWORKS
from lib_lycoris.errors import LycorisError, ModelMismatchError, ToolError
from lib_lycoris.tools.library import find
from lib_lycoris.tools.merge import checkpoint as merge
from lib_lycoris.tools.registry import load_tools
from lib_lycoris.tools.reshape import bake, convert
from tests import samples
from tests.tools.test_extract import random_weights

BLOCK = "down_blocks_0_attentions_{0}_transformer_blocks_0_{1}"
UNET = [f"lora_unet_{BLOCK.format(number, part)}" for number in (0, 1) for part in ("attn1_to_q", "attn1_to_v", "attn1_to_out_0")]
TEXT = [f"lora_te_text_model_encoder_layers_{number}_self_attn_q_proj" for number in (0, 1)]
SHAPES: Mapping[str, tuple[int, int]] = {**dict.fromkeys(UNET, (320, 320)), **dict.fromkeys(TEXT, (768, 768))}


def network(path: Path, seed: int, kind: str = "lora", said: Mapping[str, str] | None = None, size: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in SHAPES.items():
        made = samples.builders("linear")[kind](g, shape)
        made = {suffix: tensor * size if suffix == "lora_up.weight" else tensor for suffix, tensor in made.items()}
        tensors.update({f"{name}.{suffix}": tensor.contiguous() for suffix, tensor in made.items()})
    save_file(tensors, path, {"ss_base_model_version": "sd_v1", **(said or {})})
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    for seed in range(4):
        network(folder / f"{seed}.safetensors", seed, said={"ss_sd_model_name": f"C:\\models\\base{seed % 2}.safetensors"})
    network(folder / "sub" / "hada.safetensors", 9, "loha")
    network(folder / "oft.safetensors", 9, "oft")
    return folder


def names(files: list[str]) -> set[str]:
    return {Path(file).name for file in files}


def test_a_network_is_found_under_another_name_and_in_another_form(library: Path, tmp_path: Path) -> None:
    source = library / "2.safetensors"
    (tmp_path / "renamed.safetensors").write_bytes(source.read_bytes())
    save_file(dict(reversed(load_file(source).items())), tmp_path / "saved.safetensors", {"ss_base_model_version": "sd_v1", "x": "y"})
    convert.run(source, tmp_path / "half.safetensors", save_precision="fp16")
    convert.run(source, tmp_path / "peft.safetensors", style="diffusers")
    bake.run(source, tmp_path / "weaker.safetensors", ratio=0.5)
    network(tmp_path / "other.safetensors", 77)
    for name, kind, strength in (
        ("renamed", "same file", 1.0), ("saved", "same tensors", 1.0), ("half", "same change", 1.0), ("peft", "same change", 1.0),
        ("weaker", "alike", 2.0), ("other", None, None),
    ):  # fmt: skip
        found = find.run(library, model=tmp_path / f"{name}.safetensors").report["is"]
        assert [(Path(one["file"]).name, one["kind"]) for one in found] == ([("2.safetensors", kind)] if kind else []), name
        assert not kind or found[0]["strength"] == pytest.approx(strength, rel=1e-2)
    said = find.run(library, model=tmp_path / "weaker.safetensors").text
    assert "weaker.safetensors has the same direction at 0.5 of the strength of 2.safetensors" in said
    found = find.run([library], model=library / "oft.safetensors").report["is"]
    assert not found, "the file itself is not said to be in the library"
    for kind in ("oft.safetensors", "sub/hada.safetensors"):
        (tmp_path / "copy.safetensors").write_bytes((library / kind).read_bytes())
        (one,) = find.run(library, model=tmp_path / "copy.safetensors").report["is"]
        assert one["kind"] == "same file" and names([one["file"]]) == {Path(kind).name}


def test_equal_and_similar_files_are_told_once_each(library: Path) -> None:
    (library / "sub" / "twin.safetensors").write_bytes((library / "0.safetensors").read_bytes())
    save_file(load_file(library / "0.safetensors"), library / "again.safetensors", {"ss_base_model_version": "sd_v1"})
    convert.run(library / "1.safetensors", library / "sub" / "one.safetensors", save_precision="bf16")
    bake.run(library / "3.safetensors", library / "minus.safetensors", ratio=-0.7)
    (library / "broken.safetensors").write_bytes(b"no network")
    result = find.run(library)
    report = result.report
    assert [(names(group["files"]), group["kind"]) for group in report["equal"]] == [
        ({"0.safetensors", "again.safetensors", "twin.safetensors"}, "same tensors")
    ]
    assert "minus.safetensors has the opposite direction at 0.7 of the strength of 3.safetensors" in result.text
    assert {Path(pair["stronger"]).name for pair in report["alike"] if pair["stronger"]} == {"3.safetensors"}
    found = {frozenset(names(pair["files"])): (pair["kind"], pair["cosine"]) for pair in report["alike"]}
    assert found.keys() == {frozenset({"1.safetensors", "one.safetensors"}), frozenset({"3.safetensors", "minus.safetensors"})}
    assert found[frozenset({"3.safetensors", "minus.safetensors"})] == ("alike", pytest.approx(-1.0, abs=1e-4))
    assert [Path(path).name for path, _ in report["unreadable"]] == ["broken.safetensors"]
    assert report["bytes_read"] < report["bytes_of_all"] * 1.2


def test_layers_of_one_name_in_two_families_are_compared_where_they_have_one_size(tmp_path: Path) -> None:
    attention = "transformer_blocks_0_attn{0}_to_{1}"
    for name, start, context in (("sd", "lora_unet_down_blocks_1_attentions_0", 768), ("xl", "lora_unet_input_blocks_4_1", 2048)):
        g, tensors = torch.Generator().manual_seed(3), {}
        for part, columns in ((attention.format(1, "q"), 640), (attention.format(2, "k"), context)):
            tensors[f"{start}_{part}.lora_up.weight"] = torch.randn(640, 2, generator=g)
            tensors[f"{start}_{part}.lora_down.weight"] = torch.randn(2, columns, generator=g)
        save_file(tensors, tmp_path / f"{name}.safetensors")
    report = find.run(tmp_path).report
    assert len(report["bases"]) == 2 and not report["unreadable"]
    (pair,) = report["alike"]
    assert pair["layers"] == 1 and pair["cosine"] == pytest.approx(1, abs=1e-6)


def test_files_with_one_table_keep_their_own_metadata_and_reasons(tmp_path: Path) -> None:
    source = network(tmp_path / "0.safetensors", 0)
    tensors = load_file(source)
    save_file(tensors, tmp_path / "1.safetensors", {"ss_sd_model_name": "other.safetensors", "note": "x" * 77})
    save_file(tensors, tmp_path / "2.safetensors", {"lora_adapter_metadata": '{"peft_type": "RANDLORA"}'})
    report = find.run(tmp_path).report
    assert [names(group["files"]) for group in report["equal"]] == [{"0.safetensors", "1.safetensors"}]
    assert {name: names(files) for name, files in report["bases"][0]["named"].items()} == {"other.safetensors": {"1.safetensors"}}
    ((path, reason),) = report["unreadable"]
    assert Path(path).name == "2.safetensors" and "RandLoRA" in reason


def test_which_need_which_base_model(library: Path) -> None:
    (row,) = find.run(library).report["bases"]
    assert row["base"].startswith("Stable Diffusion 1") or row["base"].startswith("SD")
    assert len(row["files"]) == 6 and names(row["exact"]) == {"oft.safetensors"}
    assert {name: len(files) for name, files in row["named"].items()} == {"base0.safetensors": 2, "base1.safetensors": 2}


def test_the_base_model_tells_of_networks_whose_files_do_not() -> None:
    bases = {row["base"]: names(row["files"]) for row in find.run(NETWORKS).report["bases"]}
    assert "demo-lora.safetensors" in bases["an unknown base model"]
    bases = {row["base"]: names(row["files"]) for row in find.run(NETWORKS, base_model=CHECKPOINT).report["bases"]}
    assert "demo-lora.safetensors" in bases[f"fits {CHECKPOINT.name}"] and "an unknown base model" not in bases


def test_a_checkpoint_of_unusual_size_tells_what_it_is_made_of(tmp_path: Path) -> None:
    used = {"demo-lora": 0.5, "demo-oft": 0.8}
    merged = tmp_path / "merged.safetensors"
    merge.run(CHECKPOINT, [NETWORKS / f"{name}.safetensors" for name in used], merged, ratios=list(used.values()))
    made_of = find.run(NETWORKS, checkpoint=merged, base_model=CHECKPOINT).report["made_of"]
    assert {Path(row["file"]).stem: row["strengths"]["unet"] for row in made_of} == pytest.approx(used, abs=0.01)


def test_what_is_nearly_none_has_no_sign() -> None:
    row = {"file": "a.safetensors", "strengths": {"unet": -0.0004, "te1": -0.5}, "errors": {"unet": 0.0, "te1": 0.0}}
    said = find._made_text("model", {"layers": ["x"], "made_of": [row], "explained": {}, "unreadable": []})
    assert "unet +0.000 ± 0.000, te1 -0.500 ± 0.000" in said


def test_checkpoints_of_other_sizes_are_refused_before_the_start(library: Path, tmp_path: Path) -> None:
    save_file(random_weights(1), tmp_path / "other.safetensors")
    for run in (find.run, find.plan):
        with pytest.raises(
            ModelMismatchError, match=r"in demo-scenes\.safetensors, but \(.*\) in other\.safetensors; both must be of one size"
        ):
            run(library=library, checkpoint=CHECKPOINT, base_model=tmp_path / "other.safetensors")
    merge.run(CHECKPOINT, [NETWORKS / "demo-lora.safetensors"], tmp_path / "merged.safetensors")
    with pytest.raises(ToolError, match=r"none of the 6 networks changes a layer of demo-scenes\.safetensors"):
        find.run(library, checkpoint=tmp_path / "merged.safetensors", base_model=CHECKPOINT)


def base_model(path: Path, dtype: torch.dtype) -> Path:
    g = torch.Generator().manual_seed(5)
    tensors: dict[str, Tensor] = {}
    for number in (0, 1):
        start = f"model.diffusion_model.input_blocks.{number + 1}.1.transformer_blocks.0.attn1"
        tensors.update({f"{start}.{part}.weight": torch.randn(320, 320, generator=g) * 0.05 for part in ("to_q", "to_v", "to_out.0")})
        text = f"cond_stage_model.transformer.text_model.encoder.layers.{number}.self_attn.q_proj"
        tensors[f"{text}.weight"] = torch.randn(768, 768, generator=g) * 0.05
    save_file({key: tensor.to(dtype) for key, tensor in tensors.items()}, path)
    return path


def test_a_network_given_as_base_model_is_not_advised_to_be_given_as_something_else(library: Path) -> None:
    with pytest.raises(LycorisError) as refused:
        load_tools()["find"].run(library=[str(library)], base_model=str(library / "0.safetensors"))
    assert "0.safetensors" in str(refused.value) and "`checkpoint`" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_checkpoint_tells_what_it_is_made_of(dtype: torch.dtype, library: Path, tmp_path: Path) -> None:
    base, merged = base_model(tmp_path / "base.safetensors", dtype), tmp_path / "merged.safetensors"
    for seed in range(4):
        network(library / f"{seed}.safetensors", seed, size=0.002)
    used = {"1.safetensors": (0.7, 0.4), "3.safetensors": (-0.3, -0.3), "sub/hada.safetensors": (0.0, 0.001), "oft.safetensors": (0.0, 0.5)}
    merge.run(base, [library / name for name in used], merged, te=[te for te, _ in used.values()], unet=[unet for _, unet in used.values()])
    report = find.run(library, checkpoint=merged, base_model=base).report
    found = {Path(row["file"]).name: row["strengths"] for row in report["made_of"]}
    wanted: dict[str, dict[str, Any]] = {"1.safetensors": {"te": 0.7, "unet": 0.4}, "3.safetensors": {"te": -0.3, "unet": -0.3}}
    wanted |= {"oft.safetensors": {"unet": 0.5}, "hada.safetensors": {"unet": 0.001}}
    assert found.keys() == wanted.keys()
    for name, strengths in wanted.items():
        assert sorted(found[name].values()) == pytest.approx(sorted(strengths.values()), abs=0.02), name
    assert min(report["explained"].values()) > (0.9 if dtype == torch.float16 else 0.99)
    with pytest.raises(ToolError, match="itself in the"):
        find.run(library, checkpoint=base, base_model=base)
    with pytest.raises(ToolError, match="`base_model`"):
        find.run(library, checkpoint=merged)


def test_the_command_line_finds_in_folders_and_their_subfolders(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "--library", str(library), "--quiet"]) == 0
    assert "6 files" in (said := capsys.readouterr().out) and "no two of them are alike" in said
    assert main(["find", "--library", str(library / "nothing"), "--quiet"]) == 2
    assert "there is no" in capsys.readouterr().err
