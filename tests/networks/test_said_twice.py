"""What a file says twice: the same numbers are one, different ones keep the layer out, by the names of both; adapters are never joined."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lib_lycoris import models
from lib_lycoris.errors import ModelMismatchError
from lib_lycoris.networks import Network, load
from lib_lycoris.tools.files.networks.network_output import open_network

DOTS = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1."
QUERY, KEY = DOTS + "to_q", DOTS + "to_k"
FLAT = "lora_unet_" + DOTS.removeprefix("unet.").replace(".", "_") + "to_q"
LDM = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
G = torch.Generator().manual_seed(5)
A, B = torch.randn(4, 320, generator=G), torch.randn(320, 4, generator=G)
OTHER = {f"{KEY}.lora_A.weight": A, f"{KEY}.lora_B.weight": B}  # a layer that is whole


def read(tmp_path: Path, tensors: dict[str, Tensor]) -> Network:
    """Return a network of one odd layer and a whole one, which is applied whatever becomes of the odd one."""
    save_file({key: t.clone() for key, t in {**tensors, **OTHER}.items()}, str(tmp_path / "odd.safetensors"))
    network = load(tmp_path / "odd.safetensors", models.reference("sd1"))
    assert any(name.endswith("attn1.to_k.weight") for name in network.patches)
    opened = open_network(tmp_path / "odd.safetensors")  # what prune and split see
    assert {module for module in opened.keys.modules if opened.algorithms(module)} >= set(network.modules.values())
    return network


def said_of(network: Network, key: str) -> str:
    return "; ".join(reason for one, reason in network.skipped if one == key)


def applied(network: Network) -> bool:
    return any(name.endswith("attn1.to_q.weight") for name in network.patches)


def pair(module: str, down: str = ".lora_A.weight", up: str = ".lora_B.weight", by: float = 1.0) -> dict[str, Tensor]:
    return {f"{module}{down}": A * by, f"{module}{up}": B}


TWICE = {
    "two names of a suffix": (pair(QUERY, ".lora_down.weight", ".lora_up.weight"), f"{QUERY}.lora_A.weight"),
    "dots and underscores": (pair(FLAT, ".lora_down.weight", ".lora_up.weight"), f"{QUERY}.lora_A.weight"),
    "names of two programs": (pair(LDM, ".lora_down.weight", ".lora_up.weight"), f"{QUERY}.lora_A.weight"),
}


@pytest.mark.parametrize("name", sorted(TWICE))
def test_the_same_numbers_in_two_spellings_are_one(tmp_path: Path, name: str) -> None:
    network = read(tmp_path, {**TWICE[name][0], **pair(QUERY)})
    assert applied(network)
    assert [item.reason for item in network.skipped if "says the same" in item.reason] and len(network.skipped) == 2


@pytest.mark.parametrize("name", sorted(TWICE))
def test_other_numbers_in_another_spelling_keep_the_layer_out_by_both_names(tmp_path: Path, name: str) -> None:
    tensors = {**TWICE[name][0], **pair(QUERY, by=1.5)}
    network = read(tmp_path, tensors)
    assert not applied(network) and {key for key, _ in network.skipped} == set(tensors)
    assert all(
        "different numbers" in reason and ".lora_A.weight" in reason and ".lora_down.weight" in reason for _, reason in network.skipped
    )


def test_a_spelling_with_an_alpha_beside_one_without_is_none_of_both(tmp_path: Path) -> None:
    network = read(tmp_path, {**TWICE["dots and underscores"][0], f"{FLAT}.alpha": torch.tensor(2.0), **pair(QUERY)})
    assert not applied(network)
    assert "only one of them has alpha" in said_of(network, f"{QUERY}.lora_A.weight")


def test_the_same_numbers_in_another_dtype_or_with_axes_of_one_are_the_same(tmp_path: Path) -> None:
    half = {key: t.half().float() for key, t in pair(QUERY).items()}
    network = read(tmp_path, {**half, f"{FLAT}.lora_down.weight": A.half()[:, :, None, None], f"{FLAT}.lora_up.weight": B.half()})
    assert applied(network)


@pytest.mark.parametrize("name", ["network_alpha", "lora_alpha"])
def test_two_alphas(tmp_path: Path, name: str) -> None:
    tensors = {**pair(QUERY), f"{QUERY}.alpha": torch.tensor(2.0)}
    assert applied(read(tmp_path, {**tensors, f"{QUERY}.{name}": torch.tensor(2.0)}))
    network = read(tmp_path, {**tensors, f"{QUERY}.{name}": torch.tensor(3.0)})
    assert not applied(network)
    assert all(key in said_of(network, f"{QUERY}.lora_A.weight") for key in (f"{QUERY}.{name}", f"{QUERY}.alpha"))


ADAPTERS = {
    "whole": {**pair(QUERY, ".lora_A.one.weight", ".lora_B.one.weight"), **pair(QUERY, ".lora_A.two.weight", ".lora_B.two.weight")},
    "halves": pair(QUERY, ".lora_A.one.weight", ".lora_B.two.weight"),
    "default": pair(QUERY, ".lora_A.default.weight", ".lora_B.two.weight"),
    "nameless": pair(QUERY, ".lora_A.weight", ".lora_B.two.weight"),
    "magnitude": {**pair(QUERY, ".lora_A.one.weight", ".lora_B.one.weight"), f"{QUERY}.lora_magnitude_vector.two.weight": torch.ones(320)},
}


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_adapters_are_never_joined(tmp_path: Path, name: str) -> None:
    network = read(tmp_path, ADAPTERS[name])
    assert not applied(network) and {key for key, _ in network.skipped} == set(ADAPTERS[name])
    keys = list(ADAPTERS[name])
    for _, reason in network.skipped:
        assert reason.startswith("two adapters in one file") and sum(key in reason for key in keys) == 2


@pytest.mark.parametrize("adapter", ["one", "default", "default_0"])
def test_one_adapter_with_a_name_is_read(tmp_path: Path, adapter: str) -> None:
    names = pair(QUERY, f".lora_A.{adapter}.weight", f".lora_B.{adapter}.weight")
    assert applied(read(tmp_path, {**names, f"{QUERY}.lora_magnitude_vector.{adapter}.weight": torch.ones(320)}))


def test_a_file_of_nothing_but_two_adapters_is_refused_with_both_keys(tmp_path: Path) -> None:
    save_file({key: t.clone() for key, t in ADAPTERS["whole"].items()}, str(tmp_path / "two.safetensors"))
    with pytest.raises(ModelMismatchError, match=r"two adapters in one file: \S+lora_A\.one\.weight and \S+lora_A\.two\.weight"):
        load(tmp_path / "two.safetensors", models.reference("sd1"))


def test_two_magnitudes(tmp_path: Path) -> None:
    one = torch.rand(320, generator=G) + 1
    tensors = {**pair(QUERY), f"{QUERY}.lora_magnitude_vector": one}
    assert applied(read(tmp_path, {**tensors, f"{QUERY}.dora_scale": one[:, None]}))
    for scale in (one[:, None] * 2, one[None]):  # other numbers; those of the inputs
        network = read(tmp_path, {**tensors, f"{QUERY}.dora_scale": scale})
        assert not applied(network) and "two magnitudes" in said_of(network, f"{QUERY}.dora_scale")


def test_two_adapters_of_one_component_are_none_even_where_no_layer_has_both(tmp_path: Path) -> None:
    value = DOTS + "to_v"
    tensors = {**pair(QUERY, ".lora_A.one.weight", ".lora_B.one.weight"), **pair(value, ".lora_A.two.weight", ".lora_B.two.weight")}
    network = read(tmp_path, tensors)
    assert not applied(network) and {key for key, _ in network.skipped} == set(tensors)
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    down, up = torch.ones(4, 768), torch.ones(768, 4)
    other = {f"{text}.lora_A.two.weight": down, f"{text}.lora_B.two.weight": up}  # each component has its own
    assert not read(tmp_path, {**pair(QUERY, ".lora_A.one.weight", ".lora_B.one.weight"), **other}).skipped


def test_a_fused_layer_beside_its_parts_is_none_of_them(tmp_path: Path) -> None:
    fused, g = f"{DOTS}to_qkv", torch.Generator().manual_seed(1)
    whole = {f"{fused}.lora_A.weight": A, f"{fused}.lora_B.weight": torch.randn(960, 4, generator=g)}
    save_file({key: t.clone() for key, t in {**pair(QUERY), **whole, **pair(DOTS + "to_out.0")}.items()}, str(tmp_path / "odd.safetensors"))
    network = load(tmp_path / "odd.safetensors", models.reference("sd1"))
    assert {name.split(".attn1.")[1] for name in network.patches} == {"to_out.0.weight"}
    assert {key for key, _ in network.skipped} == {*pair(QUERY), *whole}
    assert all("changes the same parameter" in reason for _, reason in network.skipped)


@pytest.mark.parametrize(("parts", "applied_parts"), [(("to_q", "to_k"), {"[q]", "[k]"}), (("qkv", "to_v"), set()), (("qkv",), {""})])
def test_rows_that_the_base_model_has_as_one_layer(tmp_path: Path, parts: tuple[str, ...], applied_parts: set[str]) -> None:
    g = torch.Generator().manual_seed(2)
    tensors = {}
    for part in ("to_out.0", *parts):
        rows, name = (9216, "double_blocks.0.img_attn.qkv") if part == "qkv" else (3072, f"transformer_blocks.0.attn.{part}")
        prefix = "diffusion_model" if part == "qkv" else "transformer"
        tensors[f"{prefix}.{name}.lora_A.weight"] = torch.randn(4, 3072, generator=g)
        tensors[f"{prefix}.{name}.lora_B.weight"] = torch.randn(rows, 4, generator=g)
    save_file(tensors, str(tmp_path / "odd.safetensors"))
    network = load(tmp_path / "odd.safetensors", models.reference("flux"))
    qkv = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    assert {name.removeprefix(qkv) for name in network.patches if name.startswith(qkv)} == applied_parts
    assert {key for key, _ in network.skipped} == (set() if applied_parts else {key for key in tensors if "to_out" not in key})
    assert all("changes the same parameter" in reason for _, reason in network.skipped)
