"""Rounding to fp8: to the nearest neighbour, or by chance to one of both, so that what is smaller than their distance is kept in sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lib_lycoris.errors import ToolError
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.linalg.seeded import generator
from lib_lycoris.tools.merge import verify
from lib_lycoris.tools.merge.rounding import rounded_stochastically
from tests.tools.test_merge import CONV, VAE, delta, files, go, small

KINDS = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
STRENGTH = 0.02  # the change is then a small part of the distance between neighbours
assert files  # a fixture


def dtype_of(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    assert isinstance(dtype, torch.dtype), "fp8 needs torch 2.1"
    return dtype


def tensor(path: Path, key: str) -> Tensor:
    with safe_open(path, "pt") as opened:
        found: Tensor = opened.get_tensor(key)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_each_value_becomes_one_of_its_neighbours_as_often_as_it_is_near(kind: str) -> None:
    """Of all values of the dtype, its smallest ones and the space between the largest two too."""
    dtype = dtype_of(kind)
    held = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    held = held[held.isfinite()].unique()
    made = generator("a")
    assert torch.equal(rounded_stochastically(held, dtype, made), held)
    share = torch.rand(len(held) - 1, generator=made)
    exact, runs = torch.lerp(held[:-1], held[1:], share), 4000
    found = torch.stack([rounded_stochastically(exact, dtype, made) for _ in range(runs)])
    assert ((found == held[:-1]) | (found == held[1:])).all()
    above = (found == held[1:]).double().mean(0)
    assert ((above - share).abs() <= 5 * (share * (1 - share) / runs).sqrt() + 1e-3).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_smaller_than_the_steps_is_kept_in_sum(kind: str, files: Path) -> None:
    dtype = dtype_of(kind)
    base = {
        key: value.to(dtype) if value.is_floating_point() and value.dim() > 1 and key != VAE else value for key, value in small().items()
    }
    save_file(base, files / "base.safetensors")
    change, kept = delta(files, "one", CONV).double(), {}
    for options in ({}, {"rounding": "stochastic"}, {"rounding": "stochastic", "seed": 7}):
        go(files, "one", ratios=[STRENGTH], **options)
        out = tensor(files / "out.safetensors", CONV)
        assert out.dtype == dtype and verify.run(merged=files / "out.safetensors").report["identical"]
        moved = out.double() - base[CONV].double()
        kept[str(options)] = float((moved * change).sum() / (STRENGTH * change.square().sum())), out
    (nearest, _), (by_chance, one), (again, other) = kept.values()
    assert nearest < 0.9, "most of it is lost"
    assert by_chance == pytest.approx(1, abs=0.05) and again == pytest.approx(1, abs=0.05)
    assert not torch.equal(one.float(), other.float()), "another seed"


def test_it_is_refused_where_it_means_nothing(files: Path) -> None:
    with pytest.raises(ToolError, match=r"`rounding=stochastic` is for fp8.*`save_precision=fp8`"):
        go(files, "one", rounding="stochastic")
    assert not (files / "out.safetensors").exists()
    go(files, "one", rounding="stochastic", save_precision="fp8")


@pytest.mark.parametrize("value", ["up", 1, ["stochastic"]])
def test_no_other_way_is_taken(value: Any, files: Path) -> None:
    with pytest.raises(ToolError, match=r"rounding is .*, but "):
        TOOLS["merge"].run(
            sd_model=files / "base.safetensors", models=[files / "one.safetensors"], save_to=files / "o.safetensors", rounding=value
        )
