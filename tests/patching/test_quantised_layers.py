"""Quantised linear layers on a live model: layers as others, changed by what their numbers stand for, and left as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_lycoris import Activation, Patcher, load
from lib_lycoris.networks.writer import save
from tests import samples
from tests.patching.quantised import INSTALLED, STAND_INS, Make, four_bits
from tests.patching.test_other_layers import model
from tests.tiny_model import MODES

NAME = "diffusion_model.double_blocks.0.img_mlp.0"
KINDS = {**STAND_INS, **INSTALLED}
SOME = ("lora", "loha", "dora_out", "oft", "ia3_out", "pissa", "full", "bias_only")  # with and without the weight; the bias too
ROWS, COLUMNS = 64, 128


def flux(layer: nn.Module) -> tuple[Patcher, nn.Module]:
    return Patcher(model(**{NAME.replace(".", "__"): layer}), "flux"), layer


def write(path: Path, algorithm: str, name: str = NAME) -> Path:
    made = samples.LINEAR[algorithm](torch.Generator().manual_seed(3), (ROWS, COLUMNS))
    save(path, {f"{name}.{suffix}": tensor for suffix, tensor in made.items()}, samples.metadata(algorithm))
    return path


def held(layer: nn.Module) -> list[Tensor]:
    """Return copies of all bits that a layer holds."""
    weight: Any = layer.weight
    parts = [getattr(weight, name) for name in weight.__tensor_flatten__()[0]] if hasattr(weight, "__tensor_flatten__") else [weight]
    return [part.detach().clone() for part in parts if type(part) in (Tensor, nn.Parameter) or part.dtype in (torch.uint8, torch.int8)]


@torch.no_grad()
@pytest.mark.parametrize("kind,algorithm", [*(("four bits", name) for name in samples.LINEAR), *((k, n) for k in KINDS for n in SOME)])
def test_a_quantised_layer_is_changed_as_its_numbers_would_be(kind: str, algorithm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(COLUMNS, ROWS), torch.randn(5, COLUMNS)
    (patcher, layer), (plain, same) = flux(KINDS[kind](linear)), flux(nn.Linear(COLUMNS, ROWS))
    weight, bits = patcher.workspace.access.value(layer, "weight"), held(layer)
    assert weight is not None and weight.shape == patcher.workspace.access.shape(layer, "weight") == (ROWS, COLUMNS)
    same.load_state_dict({"weight": weight.float(), "bias": linear.bias})
    before, numbers = layer(x), same(x)
    torch.testing.assert_close(before, numbers, rtol=1e-5, atol=1e-5)
    network = Activation(load(write(tmp_path / "one.safetensors", algorithm), patcher.base), lambda name: 0.7)
    plain.apply([network], "merged")
    wanted = same(x)
    for mode in MODES:
        assert not patcher.apply([network], mode).problems
        for _ in range(2):
            torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)
        patcher.restore()
        assert torch.equal(layer(x), before)
    assert all(torch.equal(now, then) for now, then in zip(held(layer), bits))


@pytest.mark.parametrize("kind", KINDS)
def test_no_full_size_weight_is_kept_of_what_is_quantised_to_be_small(kind: str, tmp_path: Path) -> None:
    patcher, layer = flux(KINDS[kind](nn.Linear(COLUMNS, ROWS)))
    patcher.apply([Activation(load(write(tmp_path / "one.safetensors", "lora"), patcher.base), lambda name: 1.0)])
    with torch.no_grad():
        layer(torch.randn(4096, COLUMNS))
    found = patcher.layer(layer)
    assert found is not None and found.way(torch.randn(4096, COLUMNS)) == "functional" and found.gain("cuda") is None
    assert not found.let_go()


def test_a_weight_that_is_exchanged_for_another_is_read_anew(tmp_path: Path) -> None:
    """A DoRA's change is of the base weight, which stays prepared only as long as that is the same."""
    torch.manual_seed(0)
    layer, x = four_bits(nn.Linear(COLUMNS, ROWS)), torch.randn(3, COLUMNS)
    patcher, _ = flux(layer)
    network = Activation(load(write(tmp_path / "dora.safetensors", "dora_out"), patcher.base), lambda name: 1.0)
    patcher.apply([network])
    with torch.no_grad():
        layer(x)
        layer.weight = four_bits(nn.Linear(COLUMNS, ROWS)).weight  # type: ignore[assignment]
        again = layer(x)
        patcher.apply([network], "merged")
        torch.testing.assert_close(again, layer(x), rtol=1e-4, atol=1e-4)


class Hqq(nn.Module):
    """A linear layer of a kind that nobody knows: no parameter called weight."""

    def __init__(self) -> None:
        super().__init__()
        self.W_q = nn.Parameter(torch.zeros(8, 8, dtype=torch.uint8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("make", [four_bits])
def test_an_unknown_kind_beside_it_is_reported_and_costs_the_others_nothing(make: Make, tmp_path: Path) -> None:
    torch.manual_seed(0)
    known = make(nn.Linear(COLUMNS, ROWS))
    live = model(diffusion_model__double_blocks__0__img_mlp__0=known, diffusion_model__double_blocks__0__img_mlp__2=Hqq())
    g = torch.Generator().manual_seed(1)
    tensors = {f"{NAME[:-1]}{n}.{suffix}": value for n in (0, 2) for suffix, value in samples.lora(g, (ROWS, COLUMNS)).items()}
    save(tmp_path / "both.safetensors", tensors)
    patcher, x = Patcher(live, "flux"), torch.randn(2, COLUMNS)
    with torch.no_grad():
        before = known(x)
        report = patcher.apply([Activation(load(tmp_path / "both.safetensors", patcher.base), lambda name: 1.0)])
        assert not torch.equal(known(x), before)
    assert report.problems and "img_mlp.2" in report.problems[0]


@torch.no_grad()
@pytest.mark.parametrize("algorithm", ["lora", "dora_out", "oft", "full"])
@pytest.mark.parametrize("mode", MODES)
def test_a_forward_that_casts_what_it_finds_does_not_cast_what_is_kept(mode: Any, algorithm: str, tmp_path: Path) -> None:
    """diffusers' layerwise casting: the layer's parameters are made wider for each forward, and fp8 again afterwards, in place."""
    torch.manual_seed(0)
    layer, x = nn.Linear(COLUMNS, ROWS).to(torch.bfloat16).to(torch.float8_e4m3fn), torch.randn(5, COLUMNS).bfloat16()
    own = type(layer).forward.__get__(layer)

    def casting(x: Tensor) -> Tensor:
        layer.to(torch.bfloat16)
        found: Tensor = own(x)
        layer.to(torch.float8_e4m3fn)
        return found

    layer.forward = casting  # type: ignore[method-assign]
    patcher, _ = flux(layer)
    before, bits = layer(x), layer.weight.view(torch.uint8).clone()
    network = Activation(load(write(tmp_path / "one.safetensors", algorithm), patcher.base), lambda name: 0.7)
    patcher.apply([network], mode)
    first = layer(x)
    assert not torch.equal(first, before)
    assert torch.equal(layer(x), first) and torch.equal(layer(x), first)
    patcher.restore()
    assert torch.equal(layer(x), before) and torch.equal(layer.weight.view(torch.uint8), bits)
