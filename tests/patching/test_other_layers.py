"""Layers of other kinds on a live model: norms of somebody's own are changed, unknown kinds are skipped and reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lib_lycoris import Activation, Patcher, load
from lib_lycoris.errors import ModelMismatchError
from lib_lycoris.networks.writer import save
from tests.tiny_model import MODES


class RMSNorm(nn.Module):
    """As Flux' own code has it, or with diffusers' name for the parameter."""

    def __init__(self, width: int, leaf: str) -> None:
        super().__init__()
        self.leaf = leaf
        self.register_parameter(leaf, nn.Parameter(torch.rand(width)))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * getattr(self, self.leaf)


class Quantised(nn.Module):
    """A layer of a kind that nobody knows."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, columns))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def model(**children: nn.Module) -> nn.Module:
    """Return a model with layers under dotted names, which are written with two underscores for a dot."""
    root = nn.Module()
    for name, child in children.items():
        *path, last = name.split("__")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.add_module(last, child)
    return root


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("leaf", ["scale", "weight"])
def test_a_norm_without_a_mean_is_changed_as_others_are(leaf: str, mode: str, tmp_path: Path) -> None:
    norm = RMSNorm(8, leaf)
    live = model(diffusion_model__double_blocks__0__img_attn__norm__query_norm=norm)
    diff = torch.randn(8)
    save(tmp_path / "norm.safetensors", {"diffusion_model.double_blocks.0.img_attn.norm.query_norm.diff": diff})
    patcher, x = Patcher(live, "flux"), torch.randn(3, 8)
    before, stored = norm(x), getattr(norm, leaf).detach().clone()
    report = patcher.apply([Activation(load(tmp_path / "norm.safetensors", patcher.base), lambda name: 0.5)], mode)  # type: ignore[arg-type]
    assert not report.problems
    torch.testing.assert_close(norm(x), before / stored * (stored + 0.5 * diff))
    assert torch.equal(getattr(norm, leaf), stored)
    patcher.restore()
    assert torch.equal(norm(x), before)


def test_an_unknown_kind_of_layer_is_skipped_and_reported(tmp_path: Path) -> None:
    known, unknown = nn.Linear(8, 8), Quantised(8, 8)
    live = model(diffusion_model__double_blocks__0__img_mlp__0=known, diffusion_model__double_blocks__0__img_mlp__2=unknown)
    tensors = {
        f"diffusion_model.double_blocks.0.img_mlp.{n}.lora_{half}.weight": torch.randn(shape)
        for n in (0, 2)
        for half, shape in (("A", (2, 8)), ("B", (8, 2)))
    }
    save(tmp_path / "both.safetensors", tensors)
    patcher, x = Patcher(live, "flux"), torch.randn(3, 8)
    before = known(x), unknown(x)
    report = patcher.apply([Activation(load(tmp_path / "both.safetensors", patcher.base), lambda name: 1.0)])
    assert "a layer of the kind Quantised cannot be changed" in report.problems[0]
    assert not torch.equal(known(x), before[0]) and torch.equal(unknown(x), before[1])


def test_a_bias_for_a_norm_that_can_have_none_keeps_it_as_it_is(tmp_path: Path) -> None:
    norm = RMSNorm(8, "weight")
    live = model(diffusion_model__double_blocks__0__img_attn__norm__query_norm=norm)
    name = "diffusion_model.double_blocks.0.img_attn.norm.query_norm"
    patcher, x = Patcher(live, "flux"), torch.randn(3, 8)
    before = norm(x)
    save(tmp_path / "norm.safetensors", {f"{name}.w_norm": torch.randn(8), f"{name}.b_norm": torch.randn(8)})
    with pytest.raises(ModelMismatchError, match="has no bias and cannot be given one"):
        patcher.apply([Activation(load(tmp_path / "norm.safetensors", patcher.base), lambda name: 1.0)])
    assert torch.equal(norm(x), before)
    save(tmp_path / "norm.safetensors", {f"{name}.w_norm": torch.randn(8), f"{name}.b_norm": torch.zeros(8)})  # nothing is missing
    report = patcher.apply([Activation(load(tmp_path / "norm.safetensors", patcher.base), lambda name: 1.0)])
    assert not report.problems and not torch.equal(norm(x), before)


def test_a_layer_of_which_a_part_cannot_be_changed_is_left_as_it_is(tmp_path: Path) -> None:
    norms = {f"diffusion_model__double_blocks__{n}__img_attn__norm__query_norm": RMSNorm(8, "scale") for n in (0, 1)}
    name = "diffusion_model.double_blocks.{}.img_attn.norm.query_norm"
    tensors = {f"{name.format(n)}.diff": torch.ones(8) for n in (0, 1)}
    save(tmp_path / "norm.safetensors", {**tensors, f"{name.format(1)}.diff_b": torch.ones(8)})  # which this norm cannot have
    live, x = model(**norms), torch.randn(3, 8)
    first, second = norms.values()
    before = first(x), second(x)
    patcher = Patcher(live, "flux")
    report = patcher.apply([Activation(load(tmp_path / "norm.safetensors", patcher.base), lambda _: 1.0)])
    assert not torch.equal(first(x), before[0]) and torch.equal(second(x), before[1])
    (told,) = report.networks
    assert told.matched == 1 and told.coverage == "1 of 2 layers" and len(told.unmatched) == 2
    assert all("cannot be" in reason for _, reason in told.unmatched)
    patcher.restore()
    assert torch.equal(first(x), before[0])
