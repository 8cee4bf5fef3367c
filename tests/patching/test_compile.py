"""torch.compile on a patched model: nothing about networks is compiled in, so that no change of them compiles again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lib_lycoris import Activation, Patcher, load
from tests.samples import LINEAR as ALGORITHMS
from tests.tiny_model import MODES, TinyModel, write_network

pytestmark = pytest.mark.slow


class Counting:
    """A backend that runs what it is given as it is, and counts."""

    def __init__(self) -> None:
        self.compiled = 0

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        self.compiled += 1
        return graph.forward  # type: ignore[no-any-return]


class Layers(TinyModel):
    """Two changed layers with something to compile around them."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a matrix for x (batch, 32)."""
        wide = torch.cat((self.get_submodule(BIASED)(x.sin()).cos(), x[:, :8]), -1)
        return self.get_submodule(LINEAR)(wide).tanh()


LINEAR = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
BIASED = "diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.2"


@torch.no_grad()
@pytest.mark.parametrize("mode", ["functional", "merged", "recompute"])
def test_changes_of_networks_compile_nothing_again(mode: Any, tmp_path: Path) -> None:
    model, backend, x = Layers(), Counting(), torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    patcher = Patcher(model)
    found = [load(write_network(tmp_path / f"{i}.safetensors", "lora", i), patcher.base, torch.float32) for i in range(2)]
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    seen, outputs = [], []
    for network, strength in ((found[0], 0.7), (found[0], -0.4), (found[1], -0.4), (found[1], 1.0)):
        patcher.apply([Activation(network, lambda name, s=strength: s)], mode)  # type: ignore[misc]
        outputs.append(compiled(x))
        torch.testing.assert_close(outputs[-1], model(x))
        seen.append(backend.compiled)
    assert seen[0] > 0 and seen == seen[:1] * 4
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3 and (outputs[1] - outputs[2]).abs().max() > 1e-3
    patcher.restore()
    torch.testing.assert_close(compiled(x), model(x))


class Rising:
    """A strength that is another one at every step."""

    def value(self, step: int, steps: int) -> float:
        return 0.1 + step / steps


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_every_algorithm_comes_and_goes_on_a_compiled_model(mode: Any, tmp_path: Path) -> None:
    """Compiled without a network: the first one is met once; no other algorithm, strength, step, pause or end compiles again."""
    model, backend, x = Layers(), Counting(), torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    patcher = Patcher(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    plain, counts = compiled(x), set()
    for seed, algorithm in enumerate(ALGORITHMS):
        network = load(write_network(tmp_path / f"{algorithm}.safetensors", algorithm, seed), patcher.base, torch.float32)
        for strength in (0.7, Rising()):
            patcher.apply([Activation(network, lambda name, s=strength: s)], mode)  # type: ignore[misc]
            for step in range(2):
                patcher.step(step, 2)
                found = compiled(x)
                torch.testing.assert_close(found, model(x))
                counts.add(backend.compiled)
            assert not torch.equal(found, plain), f"{algorithm} is not seen"
        patcher.pause()
        assert torch.equal(compiled(x), plain)
        patcher.restore()
        counts.add(backend.compiled)
    assert len(counts) == 1


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch_do_not_compile_again_each_time(mode: Any, tmp_path: Path) -> None:
    """Inference mode and autocast compile once each, as they do without a network; coming back to one compiles nothing."""
    model, backend, x = Layers(), Counting(), torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    patcher = Patcher(model)
    network = load(write_network(tmp_path / "n.safetensors", "lora", 0), patcher.base, torch.float32)
    patcher.apply([Activation(network, lambda name: 0.7)], mode)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    contexts = (torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16))
    seen = []
    for _ in range(3):
        for context in contexts:
            with torch.no_grad(), context():
                torch.testing.assert_close(compiled(x), model(x))
        seen.append(backend.compiled)
    assert seen[0] > 0 and seen == seen[:1] * 3
