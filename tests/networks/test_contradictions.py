"""What a file says of a module in two places has to be the same: scale, alpha, PEFT's config, and the kind of its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lib_lycoris import inspect, models
from lib_lycoris.algorithms import ALGORITHMS, BIASES, DoRA
from lib_lycoris.algorithms.base import stored
from lib_lycoris.errors import ModelMismatchError, NetworkFormatError
from lib_lycoris.networks import Network, load
from lib_lycoris.networks.matching import parse_module
from lib_lycoris.networks.settings.source import SettingsSource
from tests.samples import CONFIGS, LAYERS, builders

MODULE = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
FLAT = "lora_unet_" + MODULE.replace(".", "_")
PARAMETER = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
DOWN, UP = torch.ones(4, 768), torch.ones(320, 4)


def read(folder: Path, tensors: dict[str, Tensor], config: dict[str, object] | None = None) -> Network:
    save_file({key: t.clone() for key, t in tensors.items()}, str(folder / "adapter_model.safetensors"))
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return load(folder / "adapter_model.safetensors", models.reference("sd1"))


def pair(module: str = FLAT, **more: Tensor) -> dict[str, Tensor]:
    return {f"{module}.lora_down.weight": DOWN, f"{module}.lora_up.weight": UP, **{f"{module}.{key}": t for key, t in more.items()}}


def value(network: Network) -> float:
    return float(network.patches[PARAMETER].delta(torch.zeros(320, 768))[0, 0])


def test_a_scale_stands_for_alpha_and_beside_it_has_to_say_the_same(tmp_path: Path) -> None:
    assert value(read(tmp_path, pair(scale=torch.tensor(0.25)))) == 1
    assert value(read(tmp_path, pair(scale=torch.tensor(0.25), alpha=torch.tensor(1.0)))) == 1
    third = torch.tensor(4 / 3)
    assert value(read(tmp_path, pair(scale=third / 4, alpha=third.bfloat16()))) == pytest.approx(4 / 3)  # rounded, no other number
    with pytest.raises(ModelMismatchError, match=r"scale says .* 0\.25, but alpha and its rank say 0\.5"):
        read(tmp_path, pair(scale=torch.tensor(0.25), alpha=torch.tensor(2.0)))


def test_a_config_beside_a_file_with_another_alpha_is_not_taken_for_it(tmp_path: Path) -> None:
    config: dict[str, object] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    assert value(read(tmp_path, pair(), config)) == 8
    assert value(read(tmp_path, pair(alpha=torch.tensor(8.0)), config)) == 8
    with pytest.raises(ModelMismatchError, match=r"adapter_config\.json says .* 2, but alpha and its rank say 0\.25"):
        read(tmp_path, pair(alpha=torch.tensor(1.0)), config)


@pytest.mark.parametrize("config", [{"r": 8}, {"r": 4, "rank_pattern": {"attn2.to_k": 16}}])
def test_a_config_of_another_rank_is_not_taken_for_the_file(tmp_path: Path, config: dict[str, object]) -> None:
    with pytest.raises(ModelMismatchError, match=r"adapter_config\.json says that its rank is (8|16), but its tensors have 4"):
        read(tmp_path, pair(f"base_model.model.{MODULE}"), {"peft_type": "LORA", "lora_alpha": 8, **config})


KINDS = ("linear", "convolution")
WHOLE = {
    f.metadata["suffix"] for kind in (*ALGORITHMS, *BIASES, DoRA) for f in kind.__dataclass_fields__.values() if f.metadata.get("whole")
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in sorted(builders(kind))])
def test_factors_are_no_whole_numbers_and_places_are(kind: str, name: str) -> None:
    """A factor without the scale of its integers, or a place that went through float16, is not what was trained."""
    shape = LAYERS[kind][1]
    source = SettingsSource({"": CONFIGS[name]} if name in CONFIGS else {}, {}, None, False)
    own = builders(kind)[name](torch.Generator().manual_seed(0), shape)
    assert parse_module(source, "module", own, shape)
    for suffix, tensor in own.items():
        if tensor.dim() == 0:
            continue  # one number may be whole
        assert (suffix in WHOLE) != tensor.is_floating_point()
        wrong = [tensor.half()] if suffix in WHOLE else [(tensor * 9).to(dtype) for dtype in (torch.int8, torch.uint8, torch.int64)]
        for other in wrong:
            with pytest.raises(NetworkFormatError, match=suffix.replace(".", r"\.")):
                parse_module(source, "module", {**own, suffix: other}, shape)


def test_a_declaration_says_whether_numbers_are_whole() -> None:
    assert {"bias_indices", "shira_indices", "supertuning_indices"} <= WHOLE
    assert not stored("x").metadata["whole"] and stored("x", whole=True).metadata["whole"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "LOHA"}, "of the type LOHA, but its tensors are those of lora"),
        ({"peft_type": "QUUX"}, "of the type QUUX, but its tensors are those of lora"),
        ({"peft_type": "ADALORA"}, "of the type ADALORA, but its tensors are those of lora"),
        ({"peft_type": "LORA", "use_dora": True}, "it is a DoRA, but no magnitude came with its factors"),
        ({"peft_type": "LORA", "init_lora_weights": "zeta"}, "init_lora_weights=zeta is not known here"),
        ({"peft_type": "LORA", "use_zeta": True}, "use_zeta in its config is a variant of LoRA that is not known here"),
    ],
)
def test_a_config_that_is_not_of_these_tensors_is_refused(tmp_path: Path, config: dict[str, object], words: str) -> None:
    tensors = pair(f"base_model.model.{MODULE}")
    with pytest.raises((NetworkFormatError, ModelMismatchError), match=words):
        read(tmp_path, tensors, {"r": 4, "lora_alpha": 8, **config})
    harmless = {"init_lora_weights": "gaussian", "use_rslora": False, "use_zeta": False}
    assert value(read(tmp_path, tensors, {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **harmless})) == 8


def test_kohyas_split_rank_is_of_the_layers_that_it_splits(tmp_path: Path) -> None:
    metadata = {"ss_network_args": json.dumps({"split_qkv": "True"}), "ss_network_dim": "1"}
    save_file({key: t.clone() for key, t in pair(alpha=torch.tensor(2.0)).items()}, str(tmp_path / "one.safetensors"), metadata)
    assert value(load(tmp_path / "one.safetensors", models.reference("sd1"))) == 2


def test_inspect_and_the_loader_agree_on_what_is_broken(tmp_path: Path) -> None:
    for alpha, broken in ((1e10, False), (float("inf"), True)):  # LyCORIS writes 1e10 where no alpha is meant
        tensors = pair(alpha=torch.tensor(alpha))
        save_file({key: t.clone() for key, t in tensors.items()}, str(tmp_path / "one.safetensors"))
        assert bool(inspect(tmp_path / "one.safetensors").not_finite) == broken
        if broken:
            with pytest.raises(NetworkFormatError, match="NaN or infinity"):
                load(tmp_path / "one.safetensors", models.reference("sd1"))
        else:
            assert load(tmp_path / "one.safetensors", models.reference("sd1")).patches


@pytest.mark.parametrize("alpha", [float("inf"), 1e13])
def test_an_alpha_that_scales_nothing_may_be_anything(tmp_path: Path, alpha: float) -> None:
    """LyCORIS' guides set the dim of a LoKr to 100000, it writes that as alpha of two whole factors, and float16 makes infinity of it."""
    g = torch.Generator().manual_seed(1)
    tensors = {f"{MODULE}.lokr_w1": torch.randn(8, 8, generator=g), f"{MODULE}.lokr_w2": torch.randn(40, 96, generator=g)}
    deltas = []
    for number, more in enumerate(({}, {f"{MODULE}.alpha": torch.tensor(alpha)})):
        path = tmp_path / f"{number}.safetensors"
        save_file({**tensors, **more}, str(path))
        assert not inspect(path).not_finite and len(inspect(path).modules) == 1
        (patch,) = load(path, models.reference("sd1")).patches.values()
        deltas.append(patch.delta(torch.zeros(320, 768)))
        assert all(bool(tensor.isfinite().all()) for tensor in patch.to_state_dict().values())
    assert torch.equal(*deltas) and bool(deltas[0].any())
    save_file({**tensors, f"{MODULE}.alpha": torch.tensor(float("nan"))}, str(path))
    with pytest.raises((NetworkFormatError, ModelMismatchError), match="alpha is nan"):
        load(path, models.reference("sd1"))
    assert inspect(path).not_finite
