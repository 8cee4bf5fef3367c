"""Layers that compute in another dtype than they are stored in, as webuis have them that cast for each call."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_lycoris import Activation, Patcher, load
from tests.tiny_model import MODES, TinyModel, write_network

ALGORITHMS = ("lora", "loha", "lokr", "oft", "boft", "dora_out", "ia3_out", "glora", "full", "norm")


def casting(kind: type[Any]) -> type[Any]:
    """Return the layer that casts its parameters to its input."""

    class Casting(kind):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            weight, bias = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
            if kind is nn.Linear:
                return F.linear(x, weight, bias)
            if kind is nn.Conv2d:
                return self._conv_forward(x, weight, bias)
            if kind is nn.LayerNorm:
                return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)
            return F.group_norm(x, self.num_groups, weight, bias, self.eps)

    return Casting


def stored_in(dtype: torch.dtype) -> tuple[TinyModel, TinyModel]:
    """Return a model that is stored in a dtype and casts for each call, and one in float32 with the same values."""
    stored = TinyModel()
    for module in stored.modules():
        if next(module.children(), None) is None:
            module.__class__ = casting(type(module))
            module.to(dtype)
    return stored, copy.deepcopy(stored).float()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_stored_narrower_is_changed_as_it_is_computed(algorithm: str, mode: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    stored, wide = stored_in(dtype)
    x = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(7))
    before = {name: tensor.clone() for name, tensor in stored.state_dict().items()}
    plain, found = stored(x), []
    path = write_network(tmp_path / "one.safetensors", algorithm, 3)
    for model in (stored, wide):
        patcher = Patcher(model, "sd1")
        patcher.apply([Activation(load(path, patcher.base, torch.float32), lambda name: 0.7)], mode)
        found.append(model(x))
        patcher.restore()
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    assert (found[0] - plain).abs().mean() > 1e-3 and torch.equal(stored(x), plain)
    assert all(torch.equal(tensor.view(torch.uint8), before[name].view(torch.uint8)) for name, tensor in stored.state_dict().items())
