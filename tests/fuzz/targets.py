"""What is done with a hostile file, as hosts and tools do it: read, described, put on a live model, rewritten, listed."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib_lycoris import Activation, Patcher, load
from lib_lycoris.errors import LycorisError
from lib_lycoris.hosts.library.facts import Describer, read_names
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.examine.inspect import inspect
from tests.corpus.test_corpus import arch_of, layers_of, output, sample_input
from tests.corpus_loader import live_model

from .judge import Unclean


@cache
def model_of(case: Path) -> tuple[nn.Module, dict[str, nn.Module], dict[str, Any], dict[str, torch.Tensor]]:
    """Return a live model for a case, its layers, an input for each and what its parameters are."""
    model, found = live_model(layers_of(case))
    generator = torch.Generator().manual_seed(0)
    inputs = {name: sample_input(module, generator) for name, module in found.items() if not name.endswith(".attn.out_proj")}
    return model, found, inputs, {name: value.clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def put_on(path: Path, case: Path, rng: random.Random) -> None:
    """Read a file for a live model, put it on in both ways, run every layer, take it off."""
    model, found, inputs, before = model_of(case)
    patcher = Patcher(model, arch_of(case))
    try:
        network = load(path, patcher.base, rng.choice((None, torch.float16, torch.float32)))
        for mode in ("functional", "merged"):
            patcher.apply([Activation(network, lambda name: 0.7)], mode)  # type: ignore[arg-type]
            for name, x in inputs.items():
                if not torch.isfinite(output(found[name], x)).all():
                    raise Unclean(f"{mode}: {name} gives NaN or infinity")
    finally:
        patcher.restore()
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        if changed:
            raise Unclean(f"base weights changed: {changed}")


def read(path: Path, case: Path, rng: random.Random) -> None:
    """Read a file for the full-size model that it is for."""
    load(path)


def describe(path: Path, case: Path, rng: random.Random) -> None:
    """Describe a file."""
    found = inspect(path)
    if any(not isinstance(text, str) for text in found.problems):
        raise Unclean("a problem that is no text")


def list_it(path: Path, case: Path, rng: random.Random) -> None:
    """List a file as the library of a host does: never an error, broken or not."""
    try:
        Describer()(path, read_names(path))
    except LycorisError as error:
        raise Unclean(f"the list of files fails: {error}") from error


def tool(name: str, **options: Any) -> Callable[[Path, Path, random.Random], None]:
    """Return a target that gives a file to a tool."""

    def run(path: Path, case: Path, rng: random.Random) -> None:
        out = path.with_name("out.safetensors")
        TOOLS[name].run(**{"model": path, "save_to": out, **options})
        if not out.is_file():
            raise Unclean(f"{name} says nothing and writes nothing")
        if left := list(path.parent.glob("*.part")):
            raise Unclean(f"{name} left {left}")

    run.__name__ = name
    return run


TARGETS: tuple[Callable[[Path, Path, random.Random], None], ...] = (
    put_on, put_on, put_on, put_on, read, describe, list_it,
    tool("prune"), tool("resize", new_rank=2), tool("convert", save_precision="fp16"),
)  # fmt: skip
