"""Slim: layers left out, ranks lowered, to a size or an error, for every algorithm."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from lib_lycoris import load
from lib_lycoris.cli import main
from lib_lycoris.errors import ToolError
from lib_lycoris.tools.linalg.frontier import Choice, hull, steps, within_bytes, within_error
from lib_lycoris.tools.reshape import slim
from tests import samples

NAMES = {
    "IN01": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "IN02": "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_q",
    "OUT11": "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn1_to_q",
}
SHAPE = (320, 320)
choices = st.lists(st.tuples(st.integers(1, 60), st.floats(0.01, 5)), min_size=1, max_size=5)


def network(path: Path, kind: str, rank: int = 16) -> Path:
    g = torch.Generator().manual_seed(4)
    tensors = {}
    for place, name in enumerate(NAMES.values()):
        if kind == "lora":
            fall = 0.7 ** torch.arange(rank) * (1 + place)
            made = {"lora_up.weight": torch.randn(320, rank, generator=g) * fall, "lora_down.weight": torch.randn(rank, 320, generator=g)}
        else:
            made = samples.builders("linear")[kind](g, SHAPE)
        tensors.update({f"{name}.{suffix}": tensor.contiguous() for suffix, tensor in made.items()})
    save_file(tensors, path, {"ss_base_model_version": "sd_v1"})
    return path


def change(path: Path, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: algorithm.delta(weight) for name, algorithm in load(path).patches.items() if name.endswith("weight")}


def distance(old: Path, new: Path) -> float:
    weight = torch.zeros(SHAPE)
    before, after = change(old, weight), change(new, weight)
    left = sum(float((delta - after.get(name, weight)).double().square().sum()) for name, delta in before.items())
    return sqrt(left / sum(float(delta.double().square().sum()) for delta in before.values()))


def test_blocks_and_kinds_are_left_out_and_the_rest_is_the_same_to_the_bit(tmp_path: Path) -> None:
    old, out = network(tmp_path / "a.safetensors", "lora"), tmp_path / "b.safetensors"
    weight = torch.zeros(SHAPE)
    for given, left in (
        ({"blocks": ["IN01"]}, ["input_blocks.2", "output_blocks.11"]),
        ({"blocks": ["NOT", "IN01-IN05"]}, ["input_blocks.1", "input_blocks.2"]),
        ({"elements": ["attn1"]}, ["input_blocks.2"]),
        ({"blocks": ["IN01-IN02"], "elements": ["attn1"]}, ["input_blocks.2", "output_blocks.11"]),
    ):  # fmt: skip
        report = slim.run(old, out, **given).report  # type: ignore[arg-type]
        after, before = change(out, weight), change(old, weight)
        assert all(any(word in name for name in after) for word in left) and len(after) == len(left)
        assert all(torch.equal(delta, before[name]) for name, delta in after.items())
        assert report["error"] == pytest.approx(distance(old, out), rel=1e-4)
    with pytest.raises(ToolError, match=r"no layer of a.safetensors is in OUT09; its blocks are IN01, IN02, OUT11"):
        slim.run(old, tmp_path / "c.safetensors", blocks=["OUT09"])
    with pytest.raises(ToolError, match="all 3 layers"):
        slim.run(old, tmp_path / "c.safetensors", elements=["attn"])
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("given", [{"size": 0.06}, {"error": 0.1}, {"error": 0.4, "blocks": ["IN01"]}, {"new_rank": 3}], ids=str)
def test_a_size_or_an_error_is_met_and_the_report_says_it(given: dict[str, Any], tmp_path: Path) -> None:
    old, out = network(tmp_path / "a.safetensors", "lora"), tmp_path / "b.safetensors"
    plan = slim.plan(model=old, save_to=out, **given)
    report = slim.run(old, out, **given).report
    assert report["error"] == pytest.approx(distance(old, out), rel=1e-3) == plan.report["error"]
    assert plan.disk_bytes is not None and out.stat().st_size <= plan.disk_bytes
    curve = report["curve"]
    assert all(a["bytes"] < b["bytes"] and a["error"] > b["error"] for a, b in pairwise(curve))
    if "size" in given:
        assert out.stat().st_size <= given["size"] * 2**20
    if "error" in given:
        assert report["error"] <= given["error"] * (1 + 1e-4) and out.stat().st_size < old.stat().st_size
    if "new_rank" in given:
        assert {row["rank"] for row in report["modules"]} == {3}


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "full", "glora", "oft", "boft", "ia3_out", "dora_out"])
def test_every_algorithm_can_be_slimmed(kind: str, tmp_path: Path) -> None:
    old, out = network(tmp_path / "a.safetensors", kind), tmp_path / "b.safetensors"
    report = slim.run(old, out, blocks=["OUT11"], error=0.99 if kind != "lora" else 0.9).report
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    after = change(out, weight)
    assert after and not any("output_blocks" in name for name in after)
    if kind in ("glora", "oft", "boft", "ia3_out"):
        assert "depend on base weights" in report["notes"][0]
        before = change(old, weight)
        assert all(torch.equal(delta, before[name]) for name, delta in after.items())


def test_what_depends_on_base_weights_is_cut_with_them(tmp_path: Path) -> None:
    old, out, base = network(tmp_path / "a.safetensors", "oft"), tmp_path / "b.safetensors", tmp_path / "base.safetensors"
    g = torch.Generator().manual_seed(8)
    names = [name.removeprefix("diffusion_model.") for name in load(old).patches]
    save_file({f"model.diffusion_model.{name}": torch.randn(SHAPE, generator=g) for name in names}, base)
    report = slim.run(old, out, new_rank=1, base_model=base).report
    assert {(row["algorithm"], row["rank"]) for row in report["modules"]} == {("lora", 1)} and 0 < report["error"] < 1


@pytest.mark.parametrize("places", [7, 700])
def test_places_of_a_large_layer_are_never_decomposed_whole(places: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[int] = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: sides.append(matrix.shape[0]) or eigh(matrix))
    old, out, shape, g = tmp_path / "a.safetensors", tmp_path / "b.safetensors", (1024, 1536), torch.Generator().manual_seed(1)
    indices = torch.stack((torch.randperm(shape[0], generator=g)[:places], torch.randint(shape[1], (places,), generator=g)))
    made = {**samples.lora(g, shape), "bias_indices": indices, "bias_values": torch.randn(places, generator=g)}
    save_file({f"model.layer.{suffix}": tensor.contiguous() for suffix, tensor in made.items()}, old)
    report = slim.run(old, out, new_rank=2).report
    (before,), (after,) = (change(path, torch.zeros(shape)).values() for path in (old, out))
    best = torch.linalg.svdvals(before.double())
    least, found = float(best[2:].square().sum()), float((before - after).double().square().sum())
    assert found <= least * 1.01 and max(sides, default=0) < 200
    assert report["error"] == pytest.approx(sqrt(found / float(best.square().sum())), abs=1e-3)


def test_what_changes_nothing_or_cannot_be_met_is_refused(tmp_path: Path) -> None:
    old, out = network(tmp_path / "a.safetensors", "lora"), tmp_path / "b.safetensors"
    for given, words in (
        ({"size": 50.0}, "nothing to slim"), ({"error": 1e-9}, "nothing to slim"), ({"new_rank": 16}, "nothing to slim"),
        ({}, "nothing says"),
        ({"size": 1.0, "error": 0.1}, "cannot both"), ({"error": 1.5}, "above 0"), ({"size": 0.0001}, "too little"),
        ({"error": 0.1, "blocks": ["OUT11"]}, "left out alone makes a relative error"),
    ):  # fmt: skip
        with pytest.raises(ToolError, match=words):
            slim.run(old, out, **given)  # type: ignore[arg-type]
    assert not out.exists()


def test_the_command_line_slims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, out = network(tmp_path / "a.safetensors", "loha"), tmp_path / "b.safetensors"
    assert main(["slim", "--model", str(old), "--blocks", "IN01-IN02", "--save_to", str(out)]) == 0
    assert "2 layers left out, 1 kept" in capsys.readouterr().out and len(change(out, torch.zeros(SHAPE))) == 1


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(st.lists(choices, min_size=1, max_size=4), st.integers(0, 200))
def test_the_frontier_is_concave_and_keeps_to_its_room(modules: list[list[tuple[int, float]]], room: int) -> None:
    made = [[Choice(size, energy, index) for index, (size, energy) in enumerate(found)] for found in modules]
    for found in made:
        line = [Choice(0, 0.0, None), *hull(found)]
        slopes = [(b.energy - a.energy) / (b.bytes - a.bytes) for a, b in pairwise(line)]
        assert slopes == sorted(slopes, reverse=True) and all(slope > 0 for slope in slopes)
    order = steps(made)
    assert sum(choice.bytes for choice in within_bytes(order, room).values()) <= room
    most = sum(max(choice.energy for choice in found) for found in made)
    assert sum(choice.energy for choice in within_error(order, most, 0.3 * most).values()) >= 0.7 * most - 1e-9
