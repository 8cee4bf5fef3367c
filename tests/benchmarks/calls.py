"""What a call of a patched layer costs beside a bare one, in microseconds: layers so small that Python's time is all there is.

A chain of linear layers 32 -> 32 is called with one row; every figure is what one call takes more than in the bare chain. ``bypass`` is
given beside layers that add the change by hand, ``operations`` is what those take. ``builtin`` is what the webui's own loader does at
every call with a network that is merged already, written from a description of its behaviour.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_lycoris import Activation, Network, Patcher, load
from lib_lycoris.hosts.webui.adapters.dispatch import Dispatcher
from lib_lycoris.networks.writer import save
from lib_lycoris.patching import Mode
from tests.corpus_loader import put
from tests.samples import LINEAR, metadata

from .loader_timing import Clock, Result

WIDTH, BLOCKS, STRENGTH = 32, 16, 0.7
NAMES = [f"transformer.transformer_blocks.{block}.attn.to_{part}" for block in range(BLOCKS) for part in "qk"]
OTHER = "transformer.transformer_blocks.0.attn.to_v"
WAYS: dict[str, Mode] = {"merged": "merged", "bypass": "functional", "recompute": "recompute"}
LIMITS = {"merged": 3.0, "bypass": 8.0, "unpatched": 0.3, "unpatched_dispatched": 0.3}  # of one call
MICRO = 1e6
SHORTER = 0.005  # the share by which a time must be below the shortest so far to be news


class Chain(nn.Module):
    """The layers one after the other, and one that is not called."""

    def __init__(self, kind: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in [*NAMES, OTHER]:
            put(self, name, kind(WIDTH, WIDTH))
        self.layers: list[nn.Module] = [self.get_submodule(name) for name in NAMES]

    def forward(self, x: Tensor) -> Tensor:
        """Return what the last layer gives."""
        for layer in self.layers:
            x = layer(x)
        return x


class BuiltinLayer(nn.Linear):
    """A layer under the webui's own loader: at every call it compares what is merged with what is wanted; nothing is left to be done."""

    loaded: Sequence[Any] = ()
    functional = False

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Return the layer's output."""
        if self.functional:
            raise ValueError("only the merged way is timed")
        self.follow()
        return super().forward(x)

    def follow(self) -> None:
        """See that the wanted networks are in the weight."""
        if getattr(self, "network_layer_name", None) is None:
            return
        current = getattr(self, "network_current_names", ())
        wanted = tuple((network.name, network.te, network.unet, network.dyn) for network in self.loaded)
        if getattr(self, "network_weights_backup", None) is None and not self.loaded:
            return
        if current != wanted:
            raise ValueError("the networks of this benchmark are merged before it begins")


class BuiltinNetwork:
    """What the webui's own loader keeps of a tag."""

    name, te, unet, dyn = "network", 1.0, 1.0, None


def builtin() -> Chain:
    """Return a chain of layers under that loader, with one network."""
    chain = Chain(BuiltinLayer)
    for layer, name in zip(chain.layers, NAMES):
        marks: dict[str, Any] = {"network_layer_name": name, "network_current_names": (("network", 1.0, 1.0, None),)}
        layer.__dict__.update(marks, network_weights_backup=torch.zeros(0))
    BuiltinLayer.loaded = (BuiltinNetwork,)
    return chain


def dispatched() -> Chain:
    """Return a chain whose layers' forwards come by the webui's dispatcher, without a network of ours."""
    return Chain(type("Dispatched", (nn.Linear,), {"forward": Dispatcher()._around(nn.Linear.forward)}))


def written(algorithm: str, modules: Sequence[str], folder: Path) -> Path:
    """Write a random network of an algorithm on these layers."""
    generator = torch.Generator().manual_seed(1)
    path = folder / f"{algorithm}-{len(modules)}.safetensors"
    made = {name: LINEAR[algorithm](generator, (WIDTH, WIDTH)) for name in modules}
    save(path, {f"{name}.{suffix}": tensor for name, tensors in made.items() for suffix, tensor in tensors.items()}, metadata(algorithm))
    return path


def network(patcher: Patcher, algorithm: str, modules: Sequence[str], folder: Path) -> Network:
    """Return that network as a host holds it."""
    return load(written(algorithm, modules, folder), patcher.base, patcher.dtype)


def patched(algorithm: str, mode: Mode, folder: Path, modules: Sequence[str] = NAMES) -> tuple[Chain, Patcher]:
    """Return a chain with a network on it, and what put it there."""
    chain = Chain()
    patcher = Patcher(chain, "flux")
    patcher.apply([Activation(network(patcher, algorithm, modules, folder), lambda name: STRENGTH)], mode)
    return chain, patcher


class ByHand(nn.Linear):
    """A layer that adds a prepared change to its output without asking anything: the operations that a bypass is made of."""

    acts: Sequence[tuple[Any, Tensor | None]] = ()
    shift: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Return the changed output."""
        y = F.linear(x, self.weight, self.bias)
        for act, bias in self.acts:
            act.add_to(y, x, y, bias, STRENGTH)
        return y if self.shift is None else y + self.shift


def by_hand(chain: Chain, patcher: Patcher) -> Chain:
    """Return a chain with the weights and the changes of this one, in the same memory, without a patcher."""
    found = Chain(ByHand)
    for module, hand in zip(chain.layers, found.layers):
        hand.weight, hand.bias = module.weight, module.bias
        layer = patcher.layer(module)
        assert layer is not None
        edits, shifts = layer.edits.get("weight", ()), layer.edits.get("bias", ())
        bias = module.bias if any(edit.algorithm.reads_output for edit in edits) else None
        hand.__dict__["acts"] = [(edit.bypass(torch.device("cpu"), torch.float32, None), bias) for edit in edits]
        hand.__dict__["shift"] = sum(STRENGTH * edit.algorithm.delta(module.bias) for edit in shifts) if shifts else None  # type: ignore[arg-type]
    return found


def best(works: dict[str, Callable[[], Any]], rounds: int, calls: int = 4) -> dict[str, float]:
    """Return the shortest time of each in microseconds a layer, all measured in turns: what disturbs them only adds.

    They are the shortest when so many rounds have brought none that is shorter by SHORTER.
    """
    found = dict.fromkeys(works, float("inf"))
    left = rounds
    while left:
        left -= 1
        for name, work in works.items():
            work()  # its own memory is in the cache again
            start = Clock.now()
            for _ in range(calls):
                work()
            took = (Clock.now() - start) / calls / len(NAMES) * MICRO
            if took < found[name]:
                left, found[name] = rounds if took < found[name] * (1 - SHORTER) else left, took
    return found


@torch.no_grad()
def general(folder: Path, rounds: int) -> Iterator[Result]:
    """Yield the bare call, the built-in loader's, and those of layers that no network changes."""
    x = torch.randn(1, WIDTH)
    chains = {"bare": Chain(), "builtin": builtin(), "unpatched_dispatched": dispatched()}
    chains["unpatched"], _ = patched("lora", "merged", folder, [OTHER])
    found = best({name: lambda chain=chain: chain(x) for name, chain in chains.items()}, rounds)
    yield Result("bare", found["bare"], unit="us")
    for name in ("builtin", "unpatched", "unpatched_dispatched"):
        yield Result(name, found[name] - found["bare"], LIMITS.get(name), unit="us")


@torch.no_grad()
def of_algorithm(algorithm: str, folder: Path, rounds: int) -> Iterator[Result]:
    """Yield what each way adds to a call."""
    x, works, bare = torch.randn(1, WIDTH), {}, Chain()
    works["bare"] = lambda: bare(x)
    for name, mode in WAYS.items():
        chain, patcher = patched(algorithm, mode, folder)
        works[name] = lambda chain=chain: chain(x)
        if name == "bypass":
            hand = by_hand(chain, patcher)
            works["by hand"] = lambda hand=hand: hand(x)
    found = best(works, rounds)
    for name in WAYS:
        beside = found["by hand" if name == "bypass" else "bare"]
        yield Result(f"{name}_{algorithm}", found[name] - beside, LIMITS.get(name), unit="us")
    yield Result(f"operations_{algorithm}", found["by hand"] - found["bare"], unit="us")


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements; return 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--algorithms", nargs="+", default=sorted(LINEAR), choices=sorted(LINEAR), metavar="NAME", help="these alone")
    parser.add_argument("--rounds", type=int, default=60, help="how often each is timed after its time was last shorter")
    given = parser.parse_args(arguments)
    Clock.count_processor_time()
    print(f"torch {torch.__version__}, 1 thread of {os.cpu_count()}", flush=True)
    within = True
    with tempfile.TemporaryDirectory(prefix="lycoris-bench-") as name:
        stages = [general(Path(name), given.rounds), *(of_algorithm(a, Path(name), given.rounds) for a in given.algorithms)]
        for stage in stages:
            for result in stage:
                within = within and result.within
                print(result.line, flush=True)
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())
