"""The guidance: every size that is named is the size of a file that our code writes, and every saying has its source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from lib_lycoris import models
from lib_lycoris.algorithms.base import flat
from lib_lycoris.tools.files.networks.growing import GrowingFile
from lib_lycoris.tools.files.networks.naming import to_dtype
from lib_lycoris.tools.guidance.advice import (
    ADVICE,
    EXAMPLES,
    IA3_INPUTS,
    IA3_LAYERS,
    RULES,
    advice,
    chosen_layers,
    example_sizes,
    expected_size,
    sizes_of,
    stored_numbers,
)
from lib_lycoris.tools.guidance.measured import MEASURED
from lib_lycoris.tools.linalg.candidates import Wanted, make
from lib_lycoris.tools.linalg.factorise import loha
from lib_lycoris.tools.linalg.low_rank import energy
from lib_lycoris.tools.linalg.ranks import Rule

MIB = 1 << 20  # the unit of the published table

Made = dict[str, Tensor]


def made(key: str, shape: tuple[int, ...], dim: int | None, factor: int, on_inputs: bool = False) -> Made:
    """Return the tensors that our own code makes of a change of a layer."""
    g = torch.Generator().manual_seed(1)
    if key == "ia3":
        weight = torch.randn(shape, generator=g)
        scaled = weight * torch.rand(*((1, shape[1]) if on_inputs else (shape[0], 1)), generator=g)
        return make(Wanted("ia3", Rule()), "kohya", scaled, energy(scaled), weight).tensors
    columns = flat(torch.empty(shape)).shape[1]
    delta = (torch.randn(shape[0], 2, generator=g) @ torch.randn(2, columns, generator=g)).reshape(shape)
    if key == "loha":
        return loha(delta, dim or 1, sweeps=1)
    wanted = Wanted(key.removesuffix("-small"), Rule("fixed", largest=dim or 1), factor, None, dim or 32)
    return make(wanted, "kohya", delta, energy(delta), torch.randn(shape, generator=g)).tensors


def write(path: Path, family: str, preset: str, tensors: Callable[[tuple[int, ...], bool], Made]) -> int:
    """Write a file with a module for every layer of a preset, as an extraction does, and return its size."""
    base = models.reference(family)
    layers = list(chosen_layers(family, preset))
    kept: dict[tuple[tuple[int, ...], bool], Made] = {}
    longest = max(len(base.name_in("kohya", module) or "") for module in base.layers) + 20
    with GrowingFile(path, 5 * len(layers), longest, {}) as file:
        for number, (module, shape) in enumerate(layers):
            key = (shape, module.endswith(IA3_INPUTS))
            if key not in kept:
                kept[key] = to_dtype(tensors(*key), torch.float16, module)
            file.add(base.name_in("kohya", module) or f"part_{number}", kept[key])
        file.finish({"format": "pt"})
    return path.stat().st_size


CASES = [("sd1", "lora", 8, -1), ("sdxl", "lora", 4, -1), ("sd1", "loha", 2, -1), ("sd1", "lokr-small", None, -1), ("sd1", "lokr", None, 8),
         ("sdxl", "ia3", None, -1), ("sd1", "oft", 16, -1)]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family, key, dim, factor", CASES)
def test_a_size_that_is_named_is_that_of_the_file_that_is_written(
    family: str, key: str, dim: int | None, factor: int, tmp_path: Path
) -> None:
    preset = IA3_LAYERS if key == "ia3" else "attn-only" if key == "loha" else "attn-mlp"
    path = tmp_path / "a.safetensors"
    written = write(path, family, preset, lambda shape, on_inputs: made(key, shape, dim, factor, on_inputs))
    assert expected_size(family, key, preset, dim, factor) == pytest.approx(written, rel=0.02)
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    assert len({name.partition(".")[0] for name in names}) == len(list(chosen_layers(family, preset)))


@pytest.mark.parametrize("key", ["lora", "loha", "lokr", "full", "oft", "lokr-small"])
@pytest.mark.parametrize("shape", [(32, 24), (24, 32), (16, 24, 3, 3), (20, 12, 1, 1)])
def test_the_numbers_of_a_layer_are_counted(key: str, shape: tuple[int, ...]) -> None:
    dim, factor = (None, 4) if key.startswith("lokr") else (4, -1)
    tensors = made(key, shape, dim, -1 if key == "lokr-small" else factor)
    counted = stored_numbers(key, shape, dim, -1 if key == "lokr-small" else factor)
    assert counted == sum(tensor.numel() for tensor in tensors.values())


def test_a_decomposed_lokr_is_counted() -> None:
    assert stored_numbers("lokr", (320, 320), 8, 4) == 4 * 4 + 8 * (80 + 80) + 1


def test_the_sizes_are_those_that_lycoris_publishes() -> None:
    """Its table says M as `ls -h` does; small files differ by what a trainer writes into the metadata."""
    for item, size in example_sizes("sd1"):
        if item.published is not None:
            assert size / MIB == pytest.approx(item.published, rel=0.11, abs=0.5), item
    full = {item.preset: size / MIB for item, size in example_sizes("sd1") if item.key == "full"}
    assert [round(full[preset]) for preset in ("attn-only", "attn-mlp", "full")] == [233, 671, 1801]


def test_an_algorithm_that_a_file_has_is_found_under_its_name() -> None:
    found = {name: advice(name) for name in ("lora", "dora over lokr", "oft (peft)", "bias", "LoHa", "t-lora")}
    keys = {name: item and item.key for name, item in found.items()}
    wanted = {"lora": "lora", "dora over lokr": "dora", "oft (peft)": "oft", "bias": "full", "LoHa": "loha", "t-lora": "lora"}
    assert keys == wanted
    assert advice("no such thing") is None


def test_everything_that_is_said_has_a_source() -> None:
    for item in ADVICE:
        assert item.sources and all(link.startswith("https://") for link in item.sources), item.key
        assert all((item.good, item.care, item.usual, item.asked)) and 0 <= item.fidelity <= 4
    assert all(link.startswith("https://") for _, link in RULES)
    said = " ".join(text for text, _ in RULES)
    assert "steps = 100 * images / images a step" in said and "1e-4 to 1e-3" in said
    assert {row.name for row in MEASURED} <= {item.name.partition(",")[0] for item in ADVICE} | {"LoKr"}
    assert {item.key for item in EXAMPLES} <= {item.key for item in ADVICE}


def test_the_balance_is_that_of_the_guidelines() -> None:
    found = {item.key: (item.fidelity, item.flexibility, item.smallness) for item in ADVICE if item.fidelity}
    assert found == {
        "full": (4, 4, 1), "lora": (2, 2, 2), "locon": (2, 2, 2), "loha": (1, 3, 2), "lokr": (3, 1, 2), "lokr-small": (1, 2, 4),
    }  # fmt: skip


def test_sizes_are_said_for_a_family() -> None:
    text = sizes_of("lora", "sdxl")
    assert text.startswith("Files on ") and "dim 32, attn-mlp: 228.9 MB" in text
    assert sizes_of("boft", "sd1") == "" and sizes_of("lora", "flux") == ""
