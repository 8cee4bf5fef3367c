"""Merging into checkpoints, undo, verify, bake, prune, split: files hold exactly what the networks mean, and are never half written."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_lycoris.cli import main
from lib_lycoris.errors import LycorisError, ModelMismatchError, ToolError
from lib_lycoris.networks import load, summing
from lib_lycoris.prompt import Presets, parse_tag, resolve
from lib_lycoris.tools.files import output
from lib_lycoris.tools.files.checkpoints.checkpoint import open_checkpoint
from lib_lycoris.tools.files.metadata import kohya_hashes
from lib_lycoris.tools.jobs.progress import Cancelled, Progress
from lib_lycoris.tools.merge import checkpoint as merge
from lib_lycoris.tools.merge import undo, verify
from lib_lycoris.tools.merge.deltas import Changes, find_changes
from lib_lycoris.tools.merge.strengths import asked
from lib_lycoris.tools.registry import VERBS, tools_of
from lib_lycoris.tools.reshape import bake, prune, resize, split
from tests.corpus_loader import apply as live

ROOT = Path(__file__).parents[2]
DEV = sorted((ROOT / "tests/corpus/dev").glob("*/case.json"))
Q = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
PROJ = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
CONV = "model.diffusion_model.output_blocks.3.0.in_layers.2.weight"
FC1 = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
VAE = "first_stage_model.decoder.conv_in.weight"
MODULES = {
    Q: "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    PROJ: "lora_unet_down_blocks_0_attentions_0_proj_in",
    CONV: "lora_unet_up_blocks_1_resnets_0_conv1",
    FC1: "lora_te_text_model_encoder_layers_0_mlp_fc1",
}


def checkpoint_key(arch: str, name: str) -> str:
    """Return the key that a checkpoint in the webui's layout has for a live parameter."""
    if name.startswith("diffusion_model."):
        return f"model.{name}"
    return {"sd1": "cond_stage_model.", "sd2": "cond_stage_model.", "sdxl": "conditioner.embedders."}.get(arch, "text_encoders.") + name


def corpus_checkpoint(case: Path, folder: Path) -> tuple[Path, dict[str, tuple[str, slice]], dict[str, dict[str, Any]]]:
    """Write a case's base weights as a checkpoint; return it, module -> (key, rows), and the layers as the live model takes them."""
    facts, expected = json.loads(case.read_text()), load_file(case.with_name("expected.safetensors"))
    tensors, where, layers = {}, {}, {}
    fused: dict[str, dict[int, str]] = {}
    for module, info in facts["modules"].items():
        if target := info.get("fused_target"):
            fused.setdefault(target["name"], {})[target["rows"][0]] = module
            where[module] = (checkpoint_key(facts["arch"], target["name"]), slice(*target["rows"]))
            continue
        name = info["ldm_name"]
        key = checkpoint_key(facts["arch"], name if name.endswith("in_proj_weight") else f"{name}.weight")
        weight, bias = expected[f"base/{module}/weight"], expected.get(f"base/{module}/bias")
        layers[name] = {"kind": info["kind"], "weight": weight, "bias": bias, "stride": info.get("stride")}
        tensors[key], where[module] = weight, (key, slice(None))
        if bias is not None:
            tensors[key.removesuffix("weight") + "bias"] = bias
    for name, parts in fused.items():
        whole = torch.cat([expected[f"base/{parts[start]}/weight"] for start in sorted(parts)])
        tensors[checkpoint_key(facts["arch"], name)] = whole
        layers[name] = {"kind": "mha_in_proj", "weight": whole, "bias": None, "stride": None}
    tensors[VAE] = torch.randn(4, 4, 3, 3)
    save_file({key: value.clone() for key, value in tensors.items()}, folder / "base.safetensors", {"format": "pt"})
    return folder / "base.safetensors", where, layers


def small(dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Return a few tensors of an SD1 checkpoint, some of which no network touches."""
    g = torch.Generator().manual_seed(1)
    shapes = {
        "model_ema.decay": (), Q: (320, 320), Q.replace("to_q", "to_k"): (320, 320), PROJ: (320, 320, 1, 1),
        PROJ.replace("weight", "bias"): (320,),
        CONV: (1280, 40, 3, 3), FC1: (96, 32), VAE: (4, 4, 3, 3),
    }  # fmt: skip
    found = {key: (torch.randn(shape, generator=g) * 0.05).to(dtype) for key, shape in shapes.items()}
    return {**found, VAE: found[VAE].float(), "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}


def lora(seed: int, keys: tuple[str, ...] = (Q, PROJ, CONV, FC1), rank: int = 4) -> dict[str, Tensor]:
    """Return a LoRA on some of the tensors."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for key in keys:
        shape, name = small()[key].shape, MODULES[key]
        ones = [1] * (len(shape) - 2)
        tensors[f"{name}.lora_down.weight"] = torch.randn((rank, *shape[1:]), generator=g) * 0.05
        tensors[f"{name}.lora_up.weight"] = torch.randn((shape[0], rank, *ones), generator=g) * 0.05
        tensors[f"{name}.alpha"] = torch.tensor(float(rank) / 2)
    return tensors


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a checkpoint and two networks."""
    save_file(small(), tmp_path / "base.safetensors", {"format": "pt", "modelspec.title": "old", "modelspec.hash_sha256": "0xold"})
    save_file(lora(2), tmp_path / "one.safetensors", {"ss_network_dim": "4", "modelspec.trigger_phrase": "red, blue"})
    save_file(lora(3, (Q, FC1)), tmp_path / "two.safetensors", {"modelspec.trigger_phrase": "blue, green"})
    return tmp_path


def go(folder: Path, *names: str, **options: Any) -> Any:
    """Merge networks of a folder into its checkpoint."""
    options = {"save_to": folder / "out.safetensors", **options}
    return merge.run(sd_model=folder / "base.safetensors", models=[folder / f"{name}.safetensors" for name in names], **options)


def delta(folder: Path, name: str, key: str) -> Tensor:
    """Return a network's change of a tensor of the checkpoint at strength 1, by the delta engine."""
    checkpoint = open_checkpoint(folder / "base.safetensors")
    network = load(folder / f"{name}.safetensors", checkpoint.base)
    parameter = next(one for one in network.patches if checkpoint.places(one)[0].key == key)
    return network.patches[parameter].delta(checkpoint.read(key))


@pytest.mark.corpus
@pytest.mark.parametrize("case", DEV, ids=[case.parent.name for case in DEV])
def test_every_corpus_network_gives_the_weights_that_a_prompt_gives(case: Path, tmp_path: Path) -> None:
    base, where, layers = corpus_checkpoint(case, tmp_path)
    facts, expected = json.loads(case.read_text()), load_file(case.with_name("expected.safetensors"))
    tolerance = 5e-3 if facts.get("rtol") or "oft" in case.parent.name else 5e-4
    disputed = bool(facts.get("alternatives"))  # then only what the prompt gives is known to be meant
    for strength in (1.0, -0.5):
        merge.run(sd_model=base, models=[case.with_name("network.safetensors")], ratios=[strength], save_to=tmp_path / "out.safetensors")
        out = load_file(tmp_path / "out.safetensors")
        prompt = live(str(case.with_name("network.safetensors")), layers, facts["arch"], strength)
        for name, (weight, bias) in prompt.items():
            key = checkpoint_key(facts["arch"], name if name.endswith("in_proj_weight") else f"{name}.weight")
            assert torch.equal(out[key], weight), key  # one sum, and so the same bits
            if bias is not None and (place := key.removesuffix("weight") + "bias") in out:
                assert torch.equal(out[place], bias), place
        for module, (key, rows) in where.items():
            whole = expected[f"m=1.0/{module}/weight"] - expected[f"base/{module}/weight"]
            error = (out[key][rows] - expected[f"base/{module}/weight"] - strength * whole).abs().max()
            assert disputed or error <= tolerance * whole.abs().max() + 1e-7, (module, strength)
        assert torch.equal(out[VAE], load_file(base)[VAE])


def test_a_merge_is_the_weight_plus_the_sum_of_deltas_rounded_once(files: Path) -> None:
    result = go(files, "one", "two", ratios=[0.7, -0.4])
    out, base = load_file(files / "out.safetensors"), small()
    for key in (Q, FC1):
        exact = base[key].double() + 0.7 * delta(files, "one", key).double() - 0.4 * delta(files, "two", key).double()
        assert (out[key].double() - exact).abs().max() <= 0.51 * torch.finfo(torch.float16).eps * exact.abs().max()
        assert (out[key] != exact.half()).float().mean() < 1e-3  # only what lies between two values within float32's own rounding
    alone = (base[CONV].float() + delta(files, "one", CONV) * 0.7).half()
    assert (out[CONV] != alone).float().mean() < 1e-3
    assert result.report["changed_tensors"] == 4
    assert result.report["matched"] == 6


def test_untouched_tensors_order_and_metadata_stay(files: Path) -> None:
    go(files, "two")
    before, after = ((files / name).read_bytes() for name in ("base.safetensors", "out.safetensors"))
    headers = [json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]) for raw in (before, after)]
    metadata = [header.pop("__metadata__") for header in headers]
    assert list(headers[0].items()) == list(headers[1].items())
    start = [8 + int.from_bytes(raw[:8], "little") for raw in (before, after)]
    for key, entry in headers[0].items():
        begin, end = entry["data_offsets"]
        same = before[start[0] + begin : start[0] + end] == after[start[1] + begin : start[1] + end]
        assert same == (key not in (Q, FC1)), key
    assert metadata[1]["format"] == "pt"
    assert metadata[1]["modelspec.hash_sha256"] == "0x" + hashlib.sha256(after[start[1] :]).hexdigest()
    assert metadata[1]["modelspec.trigger_phrase"] == "blue, green"
    recipe = json.loads(metadata[1]["lycoris.recipe"])
    assert recipe["sd_model"]["sha256"] == hashlib.sha256(before).hexdigest()
    assert recipe["networks"][0]["sha256"] == hashlib.sha256((files / "two.safetensors").read_bytes()).hexdigest()
    assert str(files) not in metadata[1]["lycoris.recipe"]


def test_the_order_of_networks_makes_no_difference_to_any_byte(files: Path) -> None:
    save_file(lora(9, (Q, PROJ)), files / "three.safetensors")
    go(files, "one", "two", "three", ratios=[0.3, 0.5, 0.9])
    first = (files / "out.safetensors").read_bytes()
    go(files, "three", "one", "two", ratios=[0.9, 0.3, 0.5])
    assert (files / "out.safetensors").read_bytes() == first
    go(files, "three", "one", "two", ratios=[0.9, 0.5, 0.3])
    assert (files / "out.safetensors").read_bytes() != first


def test_strengths_and_block_weights_are_those_of_a_prompt(files: Path) -> None:
    weights = "0,1,0.5,0,0,0,0,0,2,0,0,0,0,0,0,0,0"
    go(files, "one", te=[0.4], unet=[0.8], lbw=[weights], lbwe=["IN01:to_q:0.25"])
    out, base = load_file(files / "out.safetensors"), small(torch.float32)
    tag = parse_tag(["one", "te=0.4", "unet=0.8", f"lbw={weights}", "lbwe=IN01", "to_q", "0.25"])
    strengths = resolve(tag, "sd1", 0, Presets.default())
    for key, expected in ((Q, 0.2), (PROJ, 0.8), (CONV, 1.6), (FC1, 0.0)):
        parameter = key.removeprefix("model.").removeprefix("cond_stage_model.")
        assert strengths(parameter) == pytest.approx(expected)
        exact = small()[key].float() + delta(files, "one", key) * expected
        assert torch.equal(out[key], exact.half()) or (out[key] != exact.half()).float().mean() < 1e-3
    assert torch.equal(out[FC1], small()[FC1])
    assert base.keys() == out.keys()


def test_strengths_are_refused_where_they_cannot_be_meant(files: Path) -> None:
    with pytest.raises(ToolError, match="`ratios` has 1 values for 2 networks"):
        go(files, "one", "two", ratios=[0.5])
    with pytest.raises(ToolError, match="every strength is 0"):
        go(files, "one", ratios=[0.0])
    with pytest.raises(LycorisError, match='no preset "NOWHERE"'):
        go(files, "one", lbw=["NOWHERE"])
    with pytest.raises(ToolError, match="is an input"):
        go(files, "one", save_to=files / "one.safetensors")
    with pytest.raises(ToolError, match="F16"):
        go(files, "one", ratios=[1e4], lbw=[",".join(["10000"] * 12)])
    save_file(
        {"lora_unet_nowhere.lora_down.weight": torch.ones(1, 2), "lora_unet_nowhere.lora_up.weight": torch.ones(2, 1)},
        files / "other.safetensors",
    )
    with pytest.raises((ModelMismatchError, LycorisError), match="other"):
        go(files, "other")
    assert sorted(p.name for p in files.iterdir()) == ["base.safetensors", "one.safetensors", "other.safetensors", "two.safetensors"]


@pytest.mark.parametrize(
    "name,dtype,eps",
    [
        ("fp32", torch.float32, 1e-7), ("bf16", torch.bfloat16, 2**-8), ("fp16", torch.float16, 2**-11),
        ("fp8", "float8_e4m3fn", 2**-4), ("fp8_e5m2", "float8_e5m2", 2**-3),
    ],
)  # fmt: skip
def test_precisions(files: Path, name: str, dtype: Any, eps: float) -> None:
    dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    assert dtype is not None, "fp8 needs torch 2.1"
    go(files, "one", save_precision=name, ratios=[0.7])
    with safe_open(files / "out.safetensors", "pt") as opened:
        out = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no mapping
    for key in (Q, PROJ, CONV, FC1):
        exact = small()[key].float() + delta(files, "one", key) * 0.7
        assert out[key].dtype == dtype
        assert ((out[key].float() - exact).abs() <= eps * exact.abs() + 2**-9 * (eps > 2**-5) + 1e-7).all()
    bias = PROJ.replace("weight", "bias")
    assert out[bias].dtype == (torch.float16 if "fp8" in name else dtype)
    assert torch.equal(out[bias].float(), small()[bias].to(dtype).float() if "fp8" not in name else small()[bias].float())
    assert torch.equal(out[VAE], small()[VAE])
    assert verify.run(merged=files / "out.safetensors").report["identical"]


def test_a_pickled_checkpoint_is_read_without_running_anything(files: Path) -> None:
    torch.save({"state_dict": small(), "global_step": 3}, files / "old.ckpt")
    go(files, "one")
    merge.run(sd_model=files / "old.ckpt", models=[files / "one.safetensors"], save_to=files / "from_ckpt.safetensors")
    one, other = load_file(files / "out.safetensors"), load_file(files / "from_ckpt.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(ToolError, match="undo"):
        merge.run(
            sd_model=files / "old.ckpt", models=[files / "one.safetensors"], save_to=files / "x.safetensors", undo_file=files / "x.undo"
        )


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_a_unet_alone_takes_what_is_for_it_and_reports_the_rest(files: Path, prefix: str) -> None:
    go(files, "one")
    start = "model.diffusion_model."
    save_file({key.replace(start, prefix): value for key, value in small().items() if key.startswith(start)}, files / "base.safetensors")
    whole = load_file(files / "out.safetensors")
    result = go(files, "one")
    report = result.report
    bare = load_file(files / "out.safetensors")
    assert all(torch.equal(bare[key.replace(start, prefix)], whole[key]) for key in whole if key.startswith(start))
    assert (report["changed_tensors"], report["matched"]) == (3, 3)
    assert {key for key, _ in report["unmatched"]} == {key for key in lora(2) if key.startswith(MODULES[FC1])}
    assert all("has no layer of this name" in reason for _, reason in report["unmatched"])
    assert report["networks"][0]["coverage"] == "3 of 4 layers" and " - 3 of 4 layers, 3 keys not used\n" in result.text


def test_scaled_fp8_checkpoints_are_refused(files: Path) -> None:
    save_file({**small(), Q.replace("weight", "scale_input"): torch.ones(1)}, files / "base.safetensors")
    with pytest.raises(ToolError, match="keeps its weights scaled"):
        go(files, "one")


@pytest.fixture
def diffusers_folder(files: Path) -> Path:
    """The same model as a diffusers folder."""
    folder = files / "pipe"
    names = {Q: "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight", PROJ: "down_blocks.0.attentions.0.proj_in.weight",
             CONV: "up_blocks.1.resnets.0.conv1.weight"}  # fmt: skip
    for part in ("unet", "text_encoder", "vae", "tokenizer"):
        (folder / part).mkdir(parents=True)
    tensors = small()
    unet = {other: tensors[key] for key, other in names.items()}
    save_file(unet, folder / "unet/diffusion_pytorch_model.safetensors")
    save_file({key: value.bfloat16() for key, value in unet.items()}, folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    save_file({FC1.removeprefix("cond_stage_model.transformer."): tensors[FC1]}, folder / "text_encoder/model.safetensors")
    save_file({"x": tensors[VAE]}, folder / "vae/diffusion_pytorch_model.safetensors")
    (folder / "model_index.json").write_text("{}")
    (folder / "tokenizer/vocab.json").write_text("[]")
    return folder


def test_a_diffusers_folder_comes_out_as_one(files: Path, diffusers_folder: Path) -> None:
    go(files, "one", "two", ratios=[0.5, 0.5])
    single = load_file(files / "out.safetensors")
    models = [files / "one.safetensors", files / "two.safetensors"]
    merge.run(sd_model=diffusers_folder, models=models, ratios=[0.5, 0.5], save_to=files / "merged", undo_file=files / "merged.undo")
    unet = load_file(files / "merged/unet/diffusion_pytorch_model.safetensors")
    text = load_file(files / "merged/text_encoder/model.safetensors")
    assert torch.equal(unet["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"], single[Q])
    assert torch.equal(unet["up_blocks.1.resnets.0.conv1.weight"], single[CONV])
    assert torch.equal(text[FC1.removeprefix("cond_stage_model.transformer.")], single[FC1])
    found = sorted(str(p.relative_to(files / "merged")) for p in (files / "merged").rglob("*") if p.is_file())
    assert found == ["model_index.json", "text_encoder/model.safetensors", "tokenizer/vocab.json",
                     "unet/diffusion_pytorch_model.safetensors",
                     "vae/diffusion_pytorch_model.safetensors"]  # fmt: skip
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (files / "merged" / vae).read_bytes() == (diffusers_folder / vae).read_bytes()
    assert verify.run(merged=files / "merged").report["identical"]
    undo.run(merged=files / "merged", undo_file=files / "merged.undo", save_to=files / "back")
    for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", vae):
        assert (files / "back" / name).read_bytes() == (diffusers_folder / name).read_bytes()


@pytest.mark.parametrize("precision", [None, "fp32"])
def test_undo_gives_the_identical_file_and_refuses_a_changed_one(files: Path, precision: str | None) -> None:
    go(files, "one", "two", undo_file=files / "out.undo", save_precision=precision)
    result = undo.run(merged=files / "out.safetensors", undo_file=files / "out.undo", save_to=files / "back.safetensors")
    assert result.report["identical"]
    assert (files / "back.safetensors").read_bytes() == (files / "base.safetensors").read_bytes()
    assert (files / "out.undo").stat().st_size < (files / "base.safetensors").stat().st_size
    flip_in(files / "out.safetensors", VAE)
    with pytest.raises(ToolError, match="changed after the merge"):
        undo.run(merged=files / "out.safetensors", undo_file=files / "out.undo", save_to=files / "back2.safetensors")
    assert not (files / "back2.safetensors").exists()
    with pytest.raises(ToolError, match="not the undo file"):
        undo.run(merged=files / "one.safetensors", undo_file=files / "out.undo", save_to=files / "back2.safetensors")


def flip(path: Path, place: int) -> None:
    """Flip the lowest bit of one byte of a file."""
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def flip_in(path: Path, key: str) -> None:
    """Flip the lowest bit of a tensor's last value but for its high byte."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    flip(path, start + json.loads(raw[8:start])[key]["data_offsets"][1] - 2)


@pytest.mark.parametrize("rank", [4, 7])
@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_merge_in_portions_is_the_same_file(files: Path, monkeypatch: pytest.MonkeyPatch, rank: int, precision: str | None) -> None:
    save_file(lora(5, rank=rank), files / "odd.safetensors")
    monkeypatch.setattr(summing, "AT_ONCE", 5000)
    monkeypatch.setattr(summing, "BLOCKS", 4)
    monkeypatch.setattr(summing, "FEW_ADDED", 32)  # these layers have few rows
    portions = [rows for key in (Q, CONV) for rows in changes_of(files, "odd").portions(key)]
    assert len(portions) > 10 and None not in portions
    go(files, "odd", "two", ratios=[0.6, 0.2], save_precision=precision)
    divided = (files / "out.safetensors").read_bytes()
    monkeypatch.setattr(Changes, "portions", lambda self, key: [None])
    go(files, "odd", "two", ratios=[0.6, 0.2], save_precision=precision)
    assert (files / "out.safetensors").read_bytes() == divided


def changes_of(folder: Path, name: str, rounding: str = "nearest") -> Changes:
    """Return what a network of a folder changes in its checkpoint."""
    wanted = asked([folder / f"{name}.safetensors"])
    return find_changes(open_checkpoint(folder / "base.safetensors"), wanted, 0, "cpu", Progress(), rounding=rounding)


def test_what_needs_the_whole_tensor_is_not_divided(files: Path) -> None:
    full = {f"{MODULES[Q]}.{part}": torch.randn(shape) for part, shape in (("hada_w1_a", (320, 4)), ("hada_w1_b", (4, 320)))}
    save_file({**full, **{key.replace("w1", "w2"): value.clone() for key, value in full.items()}}, files / "loha.safetensors")
    assert changes_of(files, "loha").portions(Q) == changes_of(files, "one", "stochastic").portions(Q) == [None]
    save_file({**lora(5, (FC1,)), f"{MODULES[FC1]}.dora_scale": torch.ones(96, 1)}, files / "dora.safetensors")
    assert changes_of(files, "dora").portions(FC1) == [None]


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("key", [Q, VAE, CONV])
def test_verify_finds_one_flipped_bit(files: Path, hashed: bool, key: str) -> None:
    go(files, "one", "two", ratios=[0.6, 0.2], no_hash=not hashed)
    report = verify.run(merged=files / "out.safetensors").report
    assert (report["ok"], report["identical"], report["as_written"]) == (True, True, True if hashed else None)
    flip_in(files / "out.safetensors", key)
    report = verify.run(merged=files / "out.safetensors").report
    assert (report["ok"], report["first"], report["differing"]) == (False, key, [key])


def test_verify_tells_a_tensor_of_another_shape(files: Path) -> None:
    go(files, "one", no_hash=True)
    with safe_open(files / "out.safetensors", "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file({**tensors, CONV: tensors[CONV][:7].contiguous()}, files / "out.safetensors", metadata)
    report = verify.run(merged=files / "out.safetensors").report
    assert (report["ok"], report["differing"]) == (False, [CONV])


def test_verify_finds_renamed_inputs_by_their_hashes(files: Path, tmp_path: Path) -> None:
    go(files, "one")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (files / "base.safetensors").rename(elsewhere / "base.safetensors")
    (files / "one.safetensors").rename(elsewhere / "renamed.safetensors")
    save_file(lora(7), files / "one.safetensors", {"ss_network_dim": "4", "modelspec.trigger_phrase": "red, blue"})
    assert (files / "one.safetensors").stat().st_size == (elsewhere / "renamed.safetensors").stat().st_size  # its name and size alone
    with pytest.raises(ToolError, match="is not in the folder of the merged one, nor under another name"):
        verify.run(merged=files / "out.safetensors")
    result = verify.run(merged=files / "out.safetensors", folders=[elsewhere])
    assert result.report["identical"] and {Path(path).parent for path in result.report["inputs"]} == {elsewhere}
    assert "one.safetensors is called renamed.safetensors here" in result.text


def test_verify_says_which_input_is_not_the_recorded_one(files: Path) -> None:
    go(files, "one")
    save_file(lora(7), files / "one.safetensors")
    with pytest.raises(ToolError, match="one.safetensors, which the recipe names".replace(".", "[.]")):
        verify.run(merged=files / "out.safetensors")
    with pytest.raises(ToolError, match="holds no recipe"):
        verify.run(merged=files / "base.safetensors")


class Stop(Progress):
    """Asks to stop after so many bytes."""

    def advance(self, count: int = 1, text: str | None = None) -> None:
        super().advance(count, text)
        if self.unit == "B" and self.step > 200_000:
            self.cancel()


def snapshot(folder: Path) -> dict[str, str]:
    """Return what is in a folder, by name and hash."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_a_cancelled_run_leaves_nothing(files: Path) -> None:
    before = snapshot(files)
    with pytest.raises(Cancelled):
        go(files, "one", progress=Stop(), undo_file=files / "out.undo")
    assert snapshot(files) == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_leaves_nothing_and_says_so(files: Path) -> None:
    before = snapshot(files)
    code = f"""
import resource, signal, sys
from pathlib import Path
from lib_lycoris.tools.merge import checkpoint as merge
from lib_lycoris.errors import ToolError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
folder = Path({str(files)!r})
try:
    merge.run(sd_model=folder / "base.safetensors", models=[folder / "one.safetensors"], save_to=folder / "out.safetensors")
except ToolError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "the disk is full: out.safetensors" in done.stdout
    assert snapshot(files) == before


def test_no_room_is_noticed_before_anything_is_written(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(output.shutil, "disk_usage", lambda folder: usage)
    before = snapshot(files)
    with pytest.raises(ToolError, match="the disk is full"):
        go(files, "one")
    assert snapshot(files) == before


SLOW = """
import sys, time
from pathlib import Path
from lib_lycoris.tools.files import output
from lib_lycoris.cli import main
write = output.Output.write
def slow(self, data):
    write(self, data)
    print("writing", flush=True)
    time.sleep(0.05 if self.size < 300_000 else 60)
output.Output.write = slow
output.Output._copy_some = lambda self, source, offset, count: (source.seek(offset), self.write(source.read(count)), count)[2]
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("number,code", [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_a_killed_run_leaves_the_inputs_and_no_output(files: Path, number: int, code: int) -> None:
    before = snapshot(files)
    words = [
        "merge",
        "--sd_model",
        "base.safetensors",
        "--models",
        "one.safetensors",
        "--save_to",
        "out.safetensors",
        "--undo-file",
        "out.undo",
    ]
    running = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words], cwd=files, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == "writing\n"
    time.sleep(0.3)
    running.send_signal(number)
    running.communicate(timeout=60)
    assert running.returncode == code
    after = snapshot(files)
    left = {name for name in after if name not in before}
    assert {name: after[name] for name in before} == before
    assert all(name.startswith(".") and name.endswith(".part") for name in left)
    assert not left or number == signal.SIGKILL


def run_cli(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command line; return the exit code, stdout and stderr."""
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_line_merges_plans_verifies_and_undoes(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, one, out, back = (str(files / f"{name}.safetensors") for name in ("base", "one", "out", "back"))
    words = ("merge", "--sd_model", base, "--models", one, "--ratios", "0.7", "--save_to", out, "--v2")
    code, text, errors = run_cli(*words, "--dry-run", "--json", capsys=capsys)
    planned = json.loads(text)
    assert (code, planned["matched"], planned["unmatched"], planned["disk_bytes"] > 1e6) == (0, 4, [], True)
    assert planned["seconds"] >= 0
    assert planned["memory_bytes"] > 0
    assert "--v2 is not needed" in errors
    assert not Path(out).exists()
    code, text, _ = run_cli(*words, "--undo-file", str(files / "u"), "--json", capsys=capsys)
    assert (code, json.loads(text)["changed_tensors"]) == (0, 4)
    code, text, _ = run_cli("verify", out, capsys=capsys)
    assert (code, "bit by bit" in text) == (0, True)
    code, _, _ = run_cli("undo", out, "--undo-file", str(files / "u"), "--save_to", back, capsys=capsys)
    assert code == 0
    assert Path(back).read_bytes() == Path(base).read_bytes()
    flip(Path(out), -50)
    assert run_cli("verify", out, capsys=capsys)[0] == 1


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_tool_takes_the_options_that_it_declares(verb: str) -> None:
    for tool in tools_of(verb):
        names = set(tool.defaults())
        for function, more in ((tool.run, {"progress"}), (tool.plan, set())):
            parameters = inspect.signature(function).parameters
            anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
            assert anything or names | more <= parameters.keys(), (tool.name, names - parameters.keys())
            required = {n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
            assert required <= names, (tool.name, required - names)
        assert all(option.help for option in tool.options if not (option.ignored or option.refused))


def test_a_recipe_file_runs_several_jobs(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        {"models": ["one.safetensors"], "ratios": [0.5], "save_to": "a.safetensors"},
        {"models": ["two.safetensors"], "save_to": "b.safetensors"},
    ]
    (files / "jobs.json").write_text(json.dumps({"jobs": jobs}))
    words = ("merge", "--recipe", str(files / "jobs.json"), "--sd_model", str(files / "base.safetensors"), "--json")
    code, text, _ = run_cli(*words, capsys=capsys)
    assert code == 0
    assert [Path(report["output"]).name for report in json.loads(text)] == ["a.safetensors", "b.safetensors"]
    go(files, "one", ratios=[0.5])
    written = load_file(files / "a.safetensors")
    assert all(torch.equal(written[key], value) for key, value in load_file(files / "out.safetensors").items())
    (files / "jobs.json").write_text(json.dumps([{"models": ["one.safetensors"], "ratio": 1}]))
    code, _, errors = run_cli(*words, capsys=capsys)
    assert (code, '"ratio" is no option' in errors or "needs" in errors) == (2, True)


@pytest.mark.corpus
@pytest.mark.parametrize("case", DEV, ids=[case.parent.name for case in DEV])
def test_a_baked_network_at_1_is_the_old_one_at_its_strengths(case: Path, tmp_path: Path) -> None:
    base, where, _ = corpus_checkpoint(case, tmp_path)
    network, strengths = case.with_name("network.safetensors"), {"te": [0.4], "te2": [0.4], "unet": [-0.7]}
    merge.run(sd_model=base, models=[network], **strengths, save_to=tmp_path / "old.safetensors")
    bake.run(model=network, save_to=tmp_path / "baked.safetensors", te=0.4, unet=-0.7, sd_model=base, save_precision="fp32")
    merge.run(sd_model=base, models=[tmp_path / "baked.safetensors"], save_to=tmp_path / "new.safetensors")
    old, new, plain = (load_file(tmp_path / f"{name}.safetensors") for name in ("old", "new", "base"))
    for key, value in old.items():
        largest = (value - plain[key]).abs().max()
        assert (new[key] - value).abs().max() <= 2e-3 * largest + 1e-7, key
    assert where


def test_baking_refuses_what_needs_the_base_model_and_drops_what_is_off(files: Path) -> None:
    tensors = lora(2, (Q, FC1))
    tensors[f"{MODULES[Q]}.dora_scale"] = torch.ones(320, 1)
    save_file(tensors, files / "dora.safetensors")
    with pytest.raises(ToolError, match="depends on the base weight"):
        bake.run(model=files / "dora.safetensors", save_to=files / "x.safetensors", ratio=0.5, sd_model=None)
    save_file(lora(2, (Q,)), files / "plain.safetensors", {"ss_network_dim": "4", "sshs_model_hash": "old"})
    bake.run(model=files / "plain.safetensors", save_to=files / "x.safetensors", unet=0.5)
    baked, old = load_file(files / "x.safetensors"), load_file(files / "plain.safetensors")
    changed = [key for key in old if not torch.equal(old[key], baked[key])]
    assert changed == [f"{MODULES[Q]}.lora_up.weight"]
    assert torch.equal(baked[changed[0]], old[changed[0]] * 0.5)
    with safe_open(files / "x.safetensors", "pt") as opened:
        metadata = opened.metadata()
    assert metadata["ss_network_dim"] == "4"
    assert metadata["sshs_model_hash"] == kohya_hashes(baked, {})["sshs_model_hash"]
    raw = (files / "x.safetensors").read_bytes()
    assert metadata["sshs_model_hash"] == hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()


def test_pruning_leaves_out_dead_modules_only(files: Path) -> None:
    tensors = lora(2)
    tensors[f"{MODULES[PROJ]}.lora_up.weight"] = torch.zeros(320, 4, 1, 1)
    save_file(tensors, files / "net.safetensors", {"ss_output_name": "net"})
    report = prune.run(model=files / "net.safetensors", save_to=files / "pruned.safetensors").report
    kept = load_file(files / "pruned.safetensors")
    assert report["dead"] == [MODULES[PROJ]]
    assert kept.keys() == {key for key in tensors if not key.startswith(MODULES[PROJ])}
    assert all(torch.equal(kept[key], tensors[key]) for key in kept)


def test_nothing_to_prune_and_nothing_left_write_nothing(files: Path) -> None:
    options = {"save_to": files / "pruned.safetensors"}
    zero = {key: torch.zeros_like(value) if "lora_up" in key else value for key, value in lora(2).items()}
    save_file(zero, files / "zero.safetensors")
    for name, words in (("one", "nothing to prune"), ("zero", "every layer of zero.safetensors changes nothing")):
        for ask in (prune.TOOL.run, prune.TOOL.plan):
            with pytest.raises(ToolError, match=words):
                ask(model=files / f"{name}.safetensors", **options)
    with pytest.raises(ToolError, match="every layer of zero"):
        resize.TOOL.run(model=files / "zero.safetensors", new_rank=2, **options)
    assert not options["save_to"].exists()
    prune.TOOL.run(model=files / "one.safetensors", save_precision="bf16", **options)  # another precision is something to do
    assert options["save_to"].exists()


@pytest.mark.parametrize("alpha,factor", [("scale", 1.0), ("keep", 2.0)])
def test_a_split_dylora_is_what_dyn_gives_in_a_prompt(files: Path, alpha: str, factor: float) -> None:
    result = split.run(model=files / "one.safetensors", save_to=files / "cut.safetensors", unit=2, alpha=alpha)
    assert [path.name for path in result.outputs] == ["cut-0002.safetensors", "cut-0004.safetensors"]
    checkpoint = open_checkpoint(files / "base.safetensors")
    whole, cut = (load(files / f"{name}.safetensors", checkpoint.base) for name in ("one", "cut-0002"))
    assert cut.metadata["ss_network_dim"] == "2"
    for name, algorithm in cut.patches.items():
        weight = checkpoint.read(checkpoint.places(name)[0].key)
        assert torch.allclose(algorithm.delta(weight), factor * whole.patches[name].truncated(2).delta(weight), rtol=1e-5, atol=1e-7)
    go(files, "one", dyn=[2])
    dyn = load_file(files / "out.safetensors")
    go(files, "cut-0002", ratios=[1 / factor])
    assert all((dyn[key] != value).float().mean() < 1e-3 for key, value in load_file(files / "out.safetensors").items())
    with pytest.raises(ToolError, match="has ranks 1 to 4"):
        split.run(model=files / "one.safetensors", save_to=files / "cut.safetensors", ranks=[8])


def test_progress_tells_the_rate_and_ends_at_all_bytes(files: Path) -> None:
    states: list[Any] = []
    go(files, "one", progress=Progress(states.append))
    last = states[-1]
    assert (last.unit, last.step, last.left) == ("B", last.total - header_size(files / "out.safetensors"), pytest.approx(last.left))
    assert last.rate > 0


def header_size(path: Path) -> int:
    """Return the bytes before a file's data."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def test_changes_of_full_size_are_summed_before_the_one_rounding(files: Path) -> None:
    full = {f"{MODULES[key]}.diff": torch.randn(small()[key].shape) * 0.01 for key in (Q, CONV)}
    save_file(full, files / "full.safetensors")
    save_file({key: value * -0.5 for key, value in full.items()}, files / "half.safetensors")
    go(files, "full", "half", ratios=[1.0, 2.0])
    out, base = load_file(files / "out.safetensors"), small()
    assert all(torch.equal(out[key], base[key]) for key in (Q, CONV))
    go(files, "full", ratios=[0.3])
    whole = load_file(files / "out.safetensors")
    assert torch.equal(whole[CONV], (base[CONV].float() + full[f"{MODULES[CONV]}.diff"] * 0.3).half())


def test_a_progress_that_was_cancelled_stops_at_its_first_step() -> None:
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        progress.start(3, "nothing")


def test_a_file_that_was_left_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("undo", "--undo-file", str(tmp_path / "x.undo"), "--save_to", str(tmp_path / "x.safetensors"))
    code, _, error = run_cli(*words, capsys=capsys)
    assert code == 2 and "undo needs merged; see --help" in error


def test_the_checkpoints_configuration_goes_with_it(files: Path) -> None:
    (files / "base.yaml").write_text("model: {parameterization: v}", encoding="utf-8")
    go(files, "two")
    assert (files / "out.yaml").read_bytes() == (files / "base.yaml").read_bytes()
    (files / "out.yaml").write_text("mine", encoding="utf-8")
    go(files, "one")
    assert (files / "out.yaml").read_text(encoding="utf-8") == "mine"


def test_a_network_given_as_the_checkpoint_is_told_as_one(files: Path) -> None:
    with pytest.raises(ModelMismatchError, match=r"one.safetensors is a network, not a checkpoint"):
        merge.run(sd_model=files / "one.safetensors", models=[files / "one.safetensors"], save_to=files / "out.safetensors")
