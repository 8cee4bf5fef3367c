"""Half precision: after all blocks and steps, bypass is no farther from float32 than what merging rounds the weights to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_lycoris import Activation, Patcher, load
from lib_lycoris.networks.writer import save
from tests.corpus_loader import put
from tests.patching.test_patching import HALF_ON_CPU
from tests.samples import LINEAR, metadata

WIDTH, BLOCKS, STEPS, TOKENS = 640, 4, 20, 16
NAMES = [f"transformer.transformer_blocks.{block}.attn.to_{part}" for block in range(BLOCKS) for part in "qk"]
BOUND = 1.15  # of the merged path's distance from float32; 0.95 to 1.09 was seen, the most for a change larger than the weight
ALGORITHMS = ("lora", "loha", "lokr", "oft", "boft", "dora_out", "glora", "ia3_out", "full")
SIZE = 0.1  # of the samples' numbers: changes of 0.1 to 130 % of the weight


class Blocks(nn.Module):
    """Residual blocks of a width that models have, with random weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in NAMES:
            put(self, name, nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Return what is taken from the image at a step, for x (tokens, width)."""
        for name in NAMES[::2]:
            first, second = self.get_submodule(name), self.get_submodule(f"{name[:-1]}k")
            x = x + second(F.gelu(first(F.layer_norm(x, (WIDTH,)))))
        return x

    def sampled(self, x: Tensor) -> Tensor:
        """Return what is left of x after all steps, in float64."""
        for _ in range(STEPS):
            x = x - self(x) / STEPS
        return x.double()


def written(path: Path, algorithm: str) -> Path:
    generator = torch.Generator().manual_seed(3)
    made = {f"{name}.{suffix}": value for name in NAMES for suffix, value in LINEAR[algorithm](generator, (WIDTH, WIDTH)).items()}
    sized = {key: value * SIZE if value.is_floating_point() and "alpha" not in key else value for key, value in made.items()}
    save(path, sized, metadata(algorithm))
    return path


def applied(model: Blocks, path: Path, mode: Any, x: Tensor) -> Tensor:
    patcher = Patcher(model, "flux")
    patcher.apply([Activation(load(path, patcher.base, patcher.dtype), lambda name: 0.7)], mode)
    found = model.sampled(x)
    patcher.restore()
    return found


@torch.no_grad()
@pytest.mark.parametrize(
    ("algorithm", "dtype"),
    [*((name, torch.bfloat16) for name in ALGORITHMS), *((name, torch.float16) for name in ("lora", "oft", "full") if HALF_ON_CPU)],
    ids=str,
)
def test_bypass_stays_as_near_to_float32_as_a_merged_weight(algorithm: str, dtype: torch.dtype, tmp_path: Path) -> None:
    half, exact = Blocks().to(dtype), Blocks()
    exact.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    x, path = (
        torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype),
        written(tmp_path / "n.safetensors", algorithm),
    )
    truth = applied(exact, path, "merged", x.float())
    bypass, merged = (float((applied(half, path, mode, x) - truth).norm()) for mode in ("functional", "merged"))
    change = float((exact.sampled(x.float()) - truth).norm())
    assert merged > 0 and change > 0, "there must be something to be lost"
    assert bypass <= BOUND * merged, f"{bypass / merged:.3f} of the merged path's distance"
