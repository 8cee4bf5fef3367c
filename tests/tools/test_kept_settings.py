"""What a file says outside its tensors stays true of the modules that a tool keeps: its output changes the model as its input did."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lib_lycoris.errors import ToolError
from lib_lycoris.networks import load
from lib_lycoris.tools.files.networks.network_file import patches
from lib_lycoris.tools.reshape import bake, convert, prune, resize, split
from lib_lycoris.tools.reshape.metadata import edit_metadata
from tests import samples

LAYER = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SHAPE = (320, 768)
DEAD = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"

LORA = {"peft_type": "LORA", "r": samples.RANK, "lora_alpha": 7}
SAID: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, config) for name, config in samples.CONFIGS.items()},
    "hra_gs": ("hra", {"peft_type": "HRA", "apply_GS": True}),
    "oft_exact": ("peft_oft", {"peft_type": "OFT", "use_cayley_neumann": False}),
    "coft": ("peft_oft_rows", {"peft_type": "OFT", "coft": True, "eps": 1e-3}),
    "supertuning_rs": ("supertuning_supra", {"peft_type": "SUPERTUNING", "r": 2, "lora_alpha": 9, "use_rslora": True}),
    "dora_scaled": ("dora_out", LORA),
    **{f"{name}_scaled": (name, LORA) for name in ("lora", "lora_sparse", "glora")},
    **{f"{kind.lower()}_scaled": (kind.lower(), {"peft_type": kind, "r": samples.RANK, "alpha": 7}) for kind in ("LOKR", "LOHA")},
    **{name: (name, {}) for name in ("shira", "supertuning", "peft_ia3_out", "delora", "miss", "vera")},
}
ARGUED: dict[str, dict[str, str]] = {
    "oft": {"bypass_mode": "True"}, "boft": {"bypass_mode": "True"}, "ia3_out": {"bypass_mode": "True"},
    "glora": {"rs_lora": "True"}, "lokr": {"cdka_alpha": "1"},
}  # fmt: skip


@cache
def fixed() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and the bias that all files change."""
    made = torch.Generator().manual_seed(3)
    return torch.randn(SHAPE, generator=made) * 0.05, torch.randn(SHAPE[0], generator=made)


def deltas(path: Path) -> dict[str, torch.Tensor]:
    """Return what a file does to fixed weights and biases."""
    network = load(path)
    weight, bias = fixed()
    return {
        patch.name: patch.algorithm.beside(lambda: weight).delta(weight if patch.leaf == "weight" else bias)
        for patch in patches(network, network.base)
        if patch.shape in (SHAPE, SHAPE[:1])
    }


def written(
    path: Path, module: str, name: str, metadata: Mapping[str, str], dtype: torch.dtype = torch.float32, config: Any = None
) -> Path:  # fmt: skip
    """Write a network of two modules, one of them zero; where a config has their rank and scale, as PEFT does: no alpha is beside them."""
    made = samples.builders("linear")[name](torch.Generator().manual_seed(1), SHAPE)
    alone = config is not None and 7 in (config.get("lora_alpha"), config.get("alpha"))
    if alone:
        made.pop("alpha", None)
    tensors = {f"{module}.{suffix}": t.to(dtype) if t.is_floating_point() and t.numel() > 1 else t for suffix, t in made.items()}
    dead = {"lora_up.weight": torch.zeros(320, 1), "lora_down.weight": torch.ones(1, 320), "alpha": torch.tensor(1.0)}
    if alone:
        dead = {"lora_up.weight": torch.zeros(320, samples.RANK), "lora_down.weight": torch.ones(samples.RANK, 320)}
    save_file({**tensors, **{f"{DEAD}.{suffix}": tensor for suffix, tensor in dead.items()}}, path, dict(metadata))
    return path


def assert_same(old: Path, new: Sequence[Path], tolerance: float) -> None:
    """Assert that each of the new files has the deltas of the old one."""
    before = deltas(old)
    assert before and new
    for after in map(deltas, new):
        assert before.keys() <= after.keys()
        for name, delta in before.items():
            assert float((delta - after[name]).norm()) <= tolerance * float(delta.norm()), name


def outputs(path: Path, folder: Path, style: str) -> list[Path]:
    """Return what the tools make of a file that leave its modules what they were."""
    made = {name: folder / f"{name}.safetensors" for name in ("resize", "convert", "prune", "bake")}
    try:
        resize.run(model=path, save_to=made["resize"], new_rank=64)
    except ToolError as error:  # where every module is a LoRA already, an alpha has it written all the same
        if "nothing to resize" not in str(error):
            raise
        resize.run(model=path, save_to=made["resize"], new_rank=64, alpha=5.0)
    convert.run(model=path, save_to=made["convert"], style=style)
    bake.run(path, made["bake"], ratio=1.0)
    prune.run(path, made["prune"], save_precision="fp32")
    return list(made.values())


@pytest.mark.parametrize("case", SAID)
@pytest.mark.parametrize("beside", [False, True])
def test_the_config_of_peft_comes_along(case: str, beside: bool, tmp_path: Path) -> None:
    name, config = SAID[case]
    folder = tmp_path / "out"
    folder.mkdir()
    said = {} if beside or not config else {"lora_adapter_metadata": json.dumps(config)}
    path = written(tmp_path / "in.safetensors", KOHYA, name, said, config=config)
    if beside and config:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert_same(path, outputs(path, folder, "kohya"), 1e-4)


@pytest.mark.parametrize("name", ARGUED)
def test_the_arguments_of_kohya_come_along(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "in.safetensors", KOHYA, name, {"ss_network_args": json.dumps(ARGUED[name])})
    (tmp_path / "out").mkdir()
    assert_same(path, outputs(path, tmp_path / "out", "kohya"), 1e-4)


def test_a_config_beside_is_not_said_of_a_new_file_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA))
    path = written(tmp_path / "in.safetensors", KOHYA, "lora", {}, config=LORA)
    assert_same(path, outputs(path, tmp_path, "kohya"), 1e-4)


def test_places_are_whole_numbers_in_any_precision(tmp_path: Path) -> None:
    path = written(tmp_path / "in.safetensors", KOHYA, "shira", {}, torch.float16)
    for tool in (resize, convert):
        new = tmp_path / "out.safetensors"
        tool.run(model=path, save_to=new, save_precision="fp16", **({"new_rank": 8} if tool is resize else {}))
        assert_same(path, [new], 1e-3)


def test_the_magnitude_of_peft_is_that_of_the_outputs(tmp_path: Path) -> None:
    made = samples.lora(torch.Generator().manual_seed(1), (320, 320))
    tensors = {f"{DEAD}.{suffix}": tensor for suffix, tensor in made.items()}
    tensors[f"{DEAD}.lora_magnitude_vector"] = torch.rand(1, 320) + 1
    path, new = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    save_file(tensors, path)
    convert.run(model=path, save_to=new, style="kohya")
    weight = torch.randn(320, 320)
    before, after = (next(iter(load(one).patches.values())).delta(weight) for one in (path, new))
    assert torch.allclose(before, after, atol=1e-4)


def test_a_number_beyond_the_precision_is_named_with_its_file(tmp_path: Path) -> None:
    path = written(tmp_path / "large.safetensors", KOHYA, "lokr_whole", {})
    with pytest.raises(ToolError, match=rf"^large\.safetensors: {KOHYA}: alpha holds numbers that torch.float16 cannot"):
        convert.run(model=path, save_to=tmp_path / "out.safetensors", save_precision="fp16")
    assert not (tmp_path / "out.safetensors").exists()


def test_modules_that_need_a_config_are_refused_beside_ones_that_it_would_make_others(tmp_path: Path) -> None:
    """A LoRA that is made anew would be read as one that was started by PiSSA."""
    path, new = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    made = samples.pissa(torch.Generator().manual_seed(1), SHAPE)
    loha = samples.loha(torch.Generator().manual_seed(1), (320, 320))
    tensors = {**{f"{KOHYA}.{k}": v for k, v in made.items()}, **{f"{DEAD}.{k}": v for k, v in loha.items()}}
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(samples.CONFIGS["pissa"])})
    with pytest.raises(ToolError, match=r"^in\.safetensors: .* depends on settings of the training"):
        resize.run(model=path, save_to=new, new_rank=4)
    assert not new.exists()


@pytest.mark.parametrize("written_none", [False, True])
def test_a_config_beside_goes_with_a_copy(written_none: bool, tmp_path: Path) -> None:
    """As with many trainers, "None" in the metadata says nothing."""
    (tmp_path / "adapter_config.json").write_text(json.dumps(samples.CONFIGS["deft_qr"]))
    said = {"lora_adapter_metadata": "None"} if written_none else {}
    path, folder = written(tmp_path / "in.safetensors", KOHYA, "deft_qr", said), tmp_path / "out"
    folder.mkdir()
    edit_metadata([path], title="A title", save_to=folder / "copy.safetensors")
    assert_same(path, [folder / "copy.safetensors", *outputs(path, folder, "kohya")], 1e-4)


def test_a_split_has_the_scale_of_the_config(tmp_path: Path) -> None:
    path, out = (
        written(tmp_path / "in.safetensors", KOHYA, "lora", {"lora_adapter_metadata": json.dumps(LORA)}, config=LORA),
        tmp_path / "cut.safetensors",
    )
    with pytest.raises(ToolError, match=r"the scale of in\.safetensors stands in PEFT's config"):
        split.run(model=path, save_to=out, ranks=[2], alpha="keep")
    split.run(model=path, save_to=out, ranks=[samples.RANK])
    assert_same(path, [split.target(out, samples.RANK)], 1e-5)
