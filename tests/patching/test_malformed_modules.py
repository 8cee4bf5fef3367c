"""Every algorithm x suffix x what can be wrong with it, as a file on a live model: a module is applied whole or not at all.

A file has two modules of an algorithm, of which one is damaged. Whatever is done to it, only our errors come out, the other module is what
it was, a damaged one of which any key is left out changes nothing, and the model has its bits afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lib_lycoris import Activation, Network, Patcher, load
from lib_lycoris.errors import LycorisError
from lib_lycoris.models import split_parameter
from lib_lycoris.networks.spellings import ALIASES
from lib_lycoris.networks.writer import save
from tests.corpus_loader import put
from tests.samples import builders, kohya_name, metadata
from tests.tiny_model import layer

BLOCK = "diffusion_model.input_blocks.1.1"
PAIRS = {  # a kind -> two layers of it, the damaged one first
    "linear": ((f"{BLOCK}.transformer_blocks.0.attn2.to_k", f"{BLOCK}.transformer_blocks.0.attn2.to_v"), (16, 24)),
    "convolution": (("diffusion_model.input_blocks.1.0.in_layers.2", "diffusion_model.input_blocks.2.0.in_layers.2"), (16, 8, 3, 3)),
    "norm": ((f"{BLOCK}.transformer_blocks.0.norm1", f"{BLOCK}.transformer_blocks.0.norm2"), (16,)),
}
OWN = [name for name in builders("convolution") if name not in builders("linear")]  # what only a kernel has
EVERY = [(kind, name) for kind in PAIRS for name in builders(kind)]
NAMES = [
    (kind, name) if kind != "convolution" or name in (*OWN, "lora", "oft") else pytest.param(kind, name, marks=pytest.mark.long)
    for kind, name in EVERY
]
Tensors = dict[str, Tensor]


class Model(nn.Module):
    """The two layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in PAIRS[kind][0]:
            put(self, name, layer("biased" if kind == "linear" else kind, PAIRS[kind][1]))


def damaged(suffix: str, tensor: Tensor) -> Iterator[tuple[str, Tensors]]:
    """Give what may stand in a file in place of one tensor."""
    wide = tensor.reshape(-1, 1) if tensor.dim() < 2 else tensor
    numbers = tensor if tensor.is_floating_point() else tensor.float()
    yield "left out", {}
    yield "no axis", {suffix: torch.ones((), dtype=tensor.dtype)}
    yield "empty", {suffix: torch.zeros(0, dtype=tensor.dtype)}
    yield "rank 0", {suffix: wide[:, :0]}
    yield "no rows", {suffix: tensor[:0] if tensor.dim() else tensor}
    yield "longer", {suffix: torch.cat([wide, wide[:1]])}
    yield "wider", {suffix: torch.cat([wide, wide[:, :1]], 1)}
    yield "one row", {suffix: wide[:1]}
    yield "flat", {suffix: tensor.flatten()}
    yield "five axes", {suffix: tensor.reshape(*tensor.shape, *(1,) * (5 - tensor.dim()))}
    yield "whole numbers", {suffix: numbers.mul(9).to(torch.int32)}
    yield "truths", {suffix: tensor != 0}
    yield "unsigned", {suffix: numbers.abs().mul(9).to(torch.uint8)}
    yield "fp8", {suffix: numbers.to(torch.float8_e5m2)}
    yield "NaN", {suffix: torch.full_like(numbers, float("nan"))}
    yield "infinity", {suffix: torch.full_like(numbers, float("-inf"))}
    yield "beyond all", {suffix: torch.full_like(numbers.double(), 1e200)}
    yield "unknown beside it", {suffix: tensor, f"{suffix.partition('.')[0]}_extra.weight": torch.ones(3)}
    for alias in [one for one, meant in ALIASES.items() if meant == suffix][:2]:
        yield f"also as {alias}", {suffix: tensor, alias: tensor * 2 if tensor.is_floating_point() else tensor}
        yield f"as {alias}", {alias: tensor}


def whole(network: Network, module: str) -> bool:
    """Tell whether all tensors of a module of a file are used."""
    return not any(item.key.startswith(f"{module}.") for item in network.skipped)


class Trial:
    """Files of two modules, put on the model one after the other."""

    def __init__(self, kind: str, name: str, folder: Path) -> None:
        self.layers, shape = PAIRS[kind]
        g, self.model = torch.Generator().manual_seed(5), Model(kind)
        self.first, self.second = (builders(kind)[name](g, shape) for _ in self.layers)
        self.bad, self.good = map(kohya_name, self.layers)
        self.patcher = Patcher(self.model, "sd1")
        self.bits = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.path, self.metadata = folder / "one.safetensors", metadata(name)

    def deltas(self, network: Network, layer: str) -> Tensors:
        """Return what a network changes of a layer, by parameter."""
        found = {n: a for n, a in network.patches.items() if split_parameter(n)[0] == layer}
        return {n: a.beside(lambda: self.bits[f"{layer}.weight"]).delta(self.bits[n]) for n, a in found.items()}

    def outcome(self, tensors: Tensors) -> Network | None:
        """Write a file with these tensors of the damaged module, put it on and take it off; None where one of our errors said no."""
        whole = {f"{self.bad}.{k}": v.contiguous() for k, v in tensors.items()} | {f"{self.good}.{k}": v for k, v in self.second.items()}
        save(self.path, whole, self.metadata)
        try:
            network = load(self.path, self.patcher.base)
            self.patcher.apply([Activation(network, lambda name: 0.7)], "merged")
        except LycorisError:
            return None
        finally:
            self.patcher.restore()
        return network

    def wrong(self, network: Network, what: str, wanted: Tensors, names: set[str]) -> Iterator[str]:
        """Give what is wrong with a damaged file that was put on; wanted: the other module's changes, names: the whole module's."""
        found, mine = self.deltas(network, self.layers[1]), self.deltas(network, self.layers[0])
        if found.keys() != wanted.keys() or any(not torch.equal(found[n], wanted[n]) for n in wanted):
            yield "the other module is another one"
        if mine and not whole(network, self.bad) and not what.startswith("also"):
            yield f"applied without {[item.key for item in network.skipped]}"
        if any(not delta.isfinite().all() for delta in mine.values()):
            yield "NaN"
        if what.startswith("as ") and mine.keys() != names:
            yield "not read"


@torch.no_grad()
@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_module_is_applied_whole_or_not_at_all(kind: str, name: str, tmp_path: Path) -> None:
    trial, wrong = Trial(kind, name, tmp_path), []
    plain = trial.outcome(trial.first)
    assert plain is not None and whole(plain, trial.bad)
    wanted, names = trial.deltas(plain, trial.layers[1]), set(trial.deltas(plain, trial.layers[0]))
    assert names
    for suffix, tensor in trial.first.items():
        rest = {key: value for key, value in trial.first.items() if key != suffix}
        for what, instead in damaged(suffix, tensor):
            if network := trial.outcome({**rest, **instead}):
                wrong += [f"{suffix} {what}: {said}" for said in trial.wrong(network, what, wanted, names)]
    assert not wrong, "\n".join(wrong)
    assert all(torch.equal(value, trial.bits[key]) for key, value in trial.model.state_dict().items())
