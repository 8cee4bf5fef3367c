"""An algorithm that is in the list is in the samples, and so under the laws; its trainer's forward is asked; tools are given it."""

from __future__ import annotations

import importlib.util
from abc import ABCMeta
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import lib_lycoris.algorithms as package
from lib_lycoris import inspect, load
from lib_lycoris.algorithms import ALGORITHMS, BIASES, Algorithm, Config, parse
from lib_lycoris.algorithms.dora import DoRA
from lib_lycoris.algorithms.full import LoRABias
from lib_lycoris.algorithms.replacement import BiasReplacement
from lib_lycoris.tools.extract.difference import Reader
from lib_lycoris.tools.files.checkpoints.checkpoint import open_checkpoint
from lib_lycoris.tools.files.networks.network_file import changes_nothing, patches
from lib_lycoris.tools.reshape import bake, convert
from tests.samples import CONFIGS, LAYERS, WITHOUT_ORACLE, builders
from tests.tiny_model import TinyModel, write_network

NAMES = sorted({name for kind in LAYERS for name in builders(kind)})
BESIDE = {LoRABias, DoRA}  # parts of other samples


def sampled() -> set[type[Algorithm]]:
    """Return the algorithms that the samples' tensors are read as."""
    found: set[type[Algorithm]] = set()
    for kind, (_, shape) in LAYERS.items():
        for name, build in builders(kind).items():
            made = parse(build(torch.Generator().manual_seed(0), shape), Config(CONFIGS.get(name)))[0]
            found |= {type(algorithm) for algorithm in made.values()}
    return found


def defined() -> Iterator[type[Algorithm]]:
    """Give every algorithm that a file of the package stores tensors of."""
    folder = Path(package.__file__).parent
    for path in sorted(folder.glob("*.py")):
        module = importlib.import_module(f"{package.__name__}.{path.stem}") if path.stem != "__init__" else package
        for kind in vars(module).values():
            if isinstance(kind, ABCMeta) and issubclass(kind, Algorithm) and kind.__module__ == module.__name__ and "name" in vars(kind):
                yield kind


def test_every_algorithm_of_the_package_is_in_the_list() -> None:
    in_memory = {"Padded", "RotationMatrix", "PeftGLoRABias"}  # made when a network is matched or prepared, never stored
    missing = [k for k in defined() if k not in (*ALGORITHMS, *BIASES, *BESIDE) and k.__name__ not in in_memory and k.required()]
    assert not missing, f"add them to ALGORITHMS in lib_lycoris/algorithms/__init__.py: {missing}"


def test_every_algorithm_has_a_sample() -> None:
    missing = {*ALGORITHMS, *BIASES} - sampled() - {BiasReplacement}  # which needs no more than Replacement
    assert not missing, f"write a sample in tests/samples.py for {sorted(kind.__name__ for kind in missing)}"


# algorithm -> what its trainer calls it in test_oracles.py: a config's class in PEFT, algo in LyCORIS, or how a LoRA begins
ASKED = {
    "Full": "full", "Norm": "full", "LoRA": "lora", "LoHa": "loha", "LoKr": "lokr", "GLoRA": "glora", "TLoRA": "tlora", "BOFT": "boft",
    "OFT": "diag-oft", "PackedOFT": "oft", "PeftBOFT": "boft", "PeftIA3": "ia3", "IA3": "ia3", "AdaLoRA": "adalora", "PiSSA": "pissa",
    "OLoRA": "olora", "C3A": "c3a", "DEFT": "deft", "DeLoRA": "delora", "GraLoRA": "gralora", "HiRA": "hira", "HRA": "hra", "MiSS": "miss",
    "MiSSBat": "miss", "RoAd": "road", "SHiRA": "shira", "SuperTuning": "supertuning", "VeRA": "vera", "PeftGLoRA": "glora peft",
}  # fmt: skip


def test_every_algorithm_names_its_oracle() -> None:
    missing = {kind.__name__ for kind in ALGORITHMS} - ASKED.keys() - WITHOUT_ORACLE
    assert not missing, (
        f"add {sorted(missing)} to ASKED, and its trainer's forward to tests/algorithms/test_oracles.py; "
        "where none can be installed, to WITHOUT_ORACLE of tests/samples.py"
    )


if importlib.util.find_spec("peft") and importlib.util.find_spec("lycoris"):

    @pytest.mark.oracle
    def test_every_oracle_is_asked() -> None:
        from . import test_oracles as oracles

        asked = {kind.lower() for kind, _ in oracles.PEFT.values()} | {algo for algo, *_ in oracles.LYCORIS.values()}
        asked |= {str(options.get("init_lora_weights")) for _, options in oracles.PEFT.values()} | set(oracles.PEFT)
        missing = {kind: word for kind, word in ASKED.items() if word not in asked}
        assert not missing, f"add cases to tests/algorithms/test_oracles.py: {missing}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint of the samples' layers."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    tensors = {}
    for name, tensor in TinyModel().state_dict().items():
        prefix = "cond_stage_model." if name.startswith("transformer.") else "model."
        tensors[prefix + name] = tensor.contiguous()
    save_file(tensors, str(path))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_tools_keep_what_a_sample_does(name: str, tmp_path: Path, checkpoint: Path) -> None:
    """As a plain LoRA it does the same, of no more ranks than its exact factors have; baked at -0.7 it does -0.7 times that."""
    opened = open_checkpoint(checkpoint)
    path = write_network(tmp_path / "sample.safetensors", name, 1)
    network = load(path, opened.base)
    assert inspect(path, opened.base).algorithms
    convert.run(model=path, save_to=tmp_path / "lora.safetensors", algorithm="lora", base_model=checkpoint, save_precision="fp32")
    bake.run(model=path, save_to=tmp_path / "baked.safetensors", ratio=-0.7, sd_model=checkpoint, save_precision="fp32")
    plain, baked = (load(tmp_path / f"{file}.safetensors", opened.base) for file in ("lora", "baked"))
    for patch in patches(network, opened.base):
        algorithm, there = patch.algorithm, opened.places(patch.name)
        if changes_nothing(patch, opened):
            continue
        weight = Reader(opened).read(patch.name, patch.shape) if there else torch.zeros(patch.shape)
        own = tuple(opened.base.layers[patch.module].shape)
        beside = partial(Reader(opened).read, f"{patch.module}.weight", own)  # a bias may be changed by what its weight is
        delta = algorithm.beside(beside).delta(weight)
        tolerance = {"rtol": 2e-4, "atol": 2e-5 * max(1.0, float(delta.abs().max()))}
        torch.testing.assert_close(plain.patches[patch.name].delta(weight), delta, **tolerance)
        torch.testing.assert_close(baked.patches[patch.name].beside(beside).delta(weight), -0.7 * delta, **tolerance)
        pair = algorithm.low_rank(weight.shape, weight) if weight.dim() > 1 else None
        assert pair is None or (plain.patches[patch.name].rank or 0) <= min(pair[0].shape[1], *weight.flatten(1).shape)
