"""Networks that cancel each other: what is left out is rounding, and no difference however small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lycoris import load
from lib_lycoris.demo import CHECKPOINT, NETWORKS
from lib_lycoris.errors import ToolError
from lib_lycoris.tools.merge import checkpoint
from lib_lycoris.tools.merge import networks as merge
from tests import samples

LAYERS = [f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_{part}" for part in ("q", "k", "v")]
SHAPE = (320, 320)


def tensors(kind: str = "lora", dtype: torch.dtype = torch.float16, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    made = [(layer, samples.builders("linear")[kind](g, SHAPE)) for layer in LAYERS]
    whole = {f"{layer}.{suffix}": tensor.to(dtype).contiguous() for layer, found in made for suffix, tensor in found.items()}
    alphas = {key: torch.tensor(float(samples.RANK)) for key in whole if key.endswith(".alpha") and kind == "lora"}
    return {**whole, **alphas}  # the scale is 1, which rounds nothing


def saved(path: Path, found: dict[str, Tensor]) -> Path:
    save_file(found, path)
    return path


def deltas(path: Path) -> dict[str, Tensor]:
    return {name: algorithm.delta(torch.zeros(SHAPE, dtype=torch.float64)) for name, algorithm in load(path).patches.items()}


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "full"])
@pytest.mark.parametrize("options", [{}, {"dim": 4}, {"size": 0.05}, {"method": "ties"}, {"rule": "energy", "value": 0.9, "dim": 8}])
def test_a_network_taken_from_itself_is_refused_by_the_merge_and_its_plan(kind: str, options: dict[str, object], tmp_path: Path) -> None:
    source, out = saved(tmp_path / "a.safetensors", tensors(kind)), tmp_path / "out.safetensors"
    for ratio in (1.0, 0.7):
        asked = {"models": [source, source], "save_to": out, "ratios": [ratio, -ratio], **options}
        for work in (merge.run, merge.plan):
            with pytest.raises(ToolError, match="the networks cancel each other"):
                work(**asked)  # type: ignore[operator]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors"]


def test_two_forms_of_one_change_cancel_where_their_rounding_is_all_that_is_left(tmp_path: Path) -> None:
    found = tensors(dtype=torch.float32)
    turned = {key: t * 3 if "lora_up" in key else t / 3 if "lora_down" in key else t for key, t in found.items()}
    one, other = saved(tmp_path / "a.safetensors", found), saved(tmp_path / "b.safetensors", turned)
    with pytest.raises(ToolError, match="cancel each other"):
        merge.run([one, other], tmp_path / "out.safetensors", ratios=[1, -1])


def test_layers_that_cancel_are_left_out_and_told_and_the_others_are_exact(tmp_path: Path) -> None:
    found = tensors()
    changed = {key: t * 2 if key == f"{LAYERS[1]}.lora_up.weight" else t for key, t in found.items()}
    one, other = saved(tmp_path / "a.safetensors", found), saved(tmp_path / "b.safetensors", changed)
    asked = {"models": [other, one], "save_to": tmp_path / "out.safetensors", "ratios": [1, -1]}
    result = merge.run(**asked)  # type: ignore[arg-type]
    (name,) = (wanted := deltas(tmp_path / "out.safetensors"))
    assert "attn1.to_k" in name and len(result.report["cancelled"]) == 2
    torch.testing.assert_close(wanted[name], deltas(one)[name], rtol=0, atol=1e-6)
    assert "the networks cancel each other in 2 layers, where only rounding is left: left out" in result.text
    plan = merge.plan(**asked)
    assert "cancel each other in 2 layers" in plan.text
    assert plan.disk_bytes == pytest.approx((tmp_path / "out.safetensors").stat().st_size, rel=0.02)


def test_the_smallest_difference_of_two_files_is_kept_where_it_can_be_written(tmp_path: Path) -> None:
    """One value of one factor is one step of float16 larger: in float16 at 1 and -1 nothing is rounded, so the file holds just that."""
    found = tensors()
    key = f"{LAYERS[2]}.lora_up.weight"
    changed = {**found, key: found[key].clone()}
    changed[key].view(torch.int16)[5, 1] += 1
    one, other = saved(tmp_path / "a.safetensors", found), saved(tmp_path / "b.safetensors", changed)
    out = tmp_path / "out.safetensors"
    merge.run([other, one], out, ratios=[1, -1])
    (name,) = (left := deltas(out))
    step = (changed[key].double() - found[key].double())[5, 1]
    wanted = step * found[f"{LAYERS[2]}.lora_down.weight"].double()[1]
    torch.testing.assert_close(left[name][5], wanted, rtol=1e-9, atol=0)
    assert float(left[name].norm()) < 1e-4 * float(deltas(one)[name].norm())


def test_a_difference_below_the_rounding_of_the_files_dtype_is_refused_in_it_and_kept_in_a_finer_one(tmp_path: Path) -> None:
    found = tensors(dtype=torch.float32)
    changed = {key: t * 1.00001 if "lora_up" in key else t for key, t in found.items()}
    one, other = saved(tmp_path / "a.safetensors", found), saved(tmp_path / "b.safetensors", changed)
    out = tmp_path / "out.safetensors"
    with pytest.raises(ToolError, match="cancel each other"):
        merge.run([other, one], out, ratios=[1, -1], save_precision="fp16")
    merge.run([other, one], out, ratios=[1, -1], save_precision="fp16", dim=4)  # made of the sum, not of its parts
    left = deltas(out)
    assert len(left) == 3 and min(float(d.norm() / deltas(one)[name].norm()) for name, d in left.items()) > 0.9e-5
    merge.run([other, one], out, ratios=[1, -1], save_precision="float")
    assert len(deltas(out)) == 3


@pytest.mark.parametrize("options", [{}, {"dim": 4}, {"size": 0.1}])
def test_differences_of_a_thousandth_are_kept(options: dict[str, object], tmp_path: Path) -> None:
    found = tensors(dtype=torch.float32)
    changed = {key: t * 1.001 if "lora_up" in key else t for key, t in found.items()}
    one, other = saved(tmp_path / "a.safetensors", found), saved(tmp_path / "b.safetensors", changed)
    result = merge.run([other, one], tmp_path / "out.safetensors", ratios=[1, -1], **options)  # type: ignore[arg-type]
    assert result.report["cancelled"] == []
    for name, delta in deltas(tmp_path / "out.safetensors").items():
        torch.testing.assert_close(delta, 0.001 * deltas(one)[name], rtol=2e-3, atol=1e-5 * float(deltas(one)[name].abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "fp32", "bf16"])
def test_networks_that_cancel_in_a_checkpoint_write_no_copy_of_it(precision: str | None, tmp_path: Path) -> None:
    lora, loha = NETWORKS / "demo-lora.safetensors", NETWORKS / "demo-loha.safetensors"
    all_of_it = {"models": [lora, lora], "ratios": [0.7, -0.7]}
    some_of_it = {"models": [lora, lora, loha], "te": [1, -1, 0], "unet": [1, -1, 0.5]}
    asked = {"sd_model": CHECKPOINT, "save_to": tmp_path / "x.safetensors", "save_precision": precision}
    for work in (checkpoint.TOOL.plan, checkpoint.TOOL.run):
        with pytest.raises(ToolError, match=r"cancel each other: every weight of demo-scenes\.safetensors stays as it is"):
            work(**asked, **all_of_it)
    assert list(tmp_path.iterdir()) == []
    plan, result = checkpoint.TOOL.plan(**asked, **some_of_it), checkpoint.TOOL.run(**asked, **some_of_it)
    changed, whole = load_file(tmp_path / "x.safetensors"), load_file(CHECKPOINT)
    rounding = 1e-5 if precision is None or precision == "fp32" else 4e-3
    apart = {key for key in whole if (changed[key].float() - whole[key].float()).norm() > rounding * whole[key].float().norm()}
    cancelled = result.report["changed_tensors"] - len(apart)
    assert 0 < cancelled < len(apart)
    foreseen = sum("_te_" in key and key.endswith("lora_down.weight") for key in load_file(lora))
    for count, text in ((foreseen, plan.text), (cancelled, result.text)):  # where the third network does next to nothing is not foreseen
        assert f"the networks cancel each other in {count} tensors, where only rounding is left" in text
    if precision != "bf16":
        left = [key for key in whole if key not in apart and not torch.equal(changed[key], whole[key])]
        assert left, "the sum of the live model is written, rounding and all"


@pytest.mark.parametrize("ratios", [[1e-10], [1e-10, 2e-10], [1e-10, -2e-10]])
def test_strengths_that_are_small_are_no_ones_that_cancel(ratios: list[float], tmp_path: Path) -> None:
    lora = NETWORKS / "demo-lora.safetensors"
    plan = checkpoint.TOOL.plan(sd_model=CHECKPOINT, models=[lora] * len(ratios), ratios=ratios, save_to=tmp_path / "x.safetensors")
    assert "cancel" not in plan.text


@pytest.mark.parametrize("method", ["dare", "ties"])
def test_the_error_of_a_weeded_merge_is_that_of_the_file(method: str, tmp_path: Path) -> None:
    one, other = (saved(tmp_path / f"{seed}.safetensors", tensors(dtype=torch.float32, seed=seed)) for seed in (1, 2))
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    assert f"exactly what {method} makes of them, with 50% of the values of each" in merge.run([one, other], whole, method=method).text
    report = merge.run([one, other], cut, method=method, dim=8).report
    wanted, found = deltas(whole), deltas(cut)
    lost = sum(float((found[name] - delta).square().sum()) for name, delta in wanted.items())
    assert report["error"] == pytest.approx((lost / sum(float(d.square().sum()) for d in wanted.values())) ** 0.5, rel=1e-3)
    assert report["error"] > 0.1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"density": 0.2}, "`density` is of TIES and DARE"), ({"value": 0.9}, "the value of a rule; choose one with `rule`"),
        ({"rule": "energy"}, "needs the share that is kept"),
    ],
)  # fmt: skip
def test_an_option_that_would_do_nothing_is_refused(options: dict[str, object], says: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", tensors())
    with pytest.raises(ToolError, match=says):
        merge.run([source], tmp_path / "out.safetensors", **options)  # type: ignore[arg-type]
