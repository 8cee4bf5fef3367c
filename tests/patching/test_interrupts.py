"""A forward that ends in the middle - Ctrl-C, or no memory for the next tensor: what comes after it is as if it had never begun."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lib_lycoris import Activation, Patcher
from lib_lycoris.errors import NetworkFormatError
from tests.patching.test_threads import Rising, own_forward
from tests.tiny_model import MODES, TinyModel, networks

ALGORITHMS = ["lora", "lokr", "dora_out", "full"]
PLACES = 30  # among all operations of a run, in which it ends
ERRORS = (KeyboardInterrupt(), MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))


class Ending(TorchDispatchMode):
    """Raises in place of one of the operations, and counts them."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self.at, self.error, self.count = at, error, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.count == self.at:
            raise self.error
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that the counts of operations and the sums are the same each time
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(1))


def outputs(model: nn.Module, put_on: Callable[[float], object], x: Tensor) -> dict[float, Tensor]:
    """Return what a model gives at both strengths."""
    found = {}
    for strength in (0.7, -0.4):
        put_on(strength)
        found[strength] = model(x)
    return found


@torch.no_grad()
@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_ends_anywhere_leaves_no_trace(mode: str, hooked: bool, x: Tensor, tmp_path: Path) -> None:
    model = TinyModel()
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in model.named_parameters()}
    if hooked:
        own_forward(model)
    plain = model(x)
    patcher = Patcher(model)
    found = networks(tmp_path, patcher, ALGORITHMS)

    def put_on(strength: float) -> None:
        varied = Rising() if strength < 0 else strength
        patcher.apply([Activation(network, lambda name: varied) for network in found.values()], mode)  # type: ignore[arg-type]
        patcher.step(1 if strength < 0 else 0, 4)

    wanted, ended = outputs(model, put_on, x), 0
    counting = Ending(-1, ERRORS[0])
    with counting:
        outputs(model, put_on, x)
    for number, at in enumerate(random.Random(mode).sample(range(1, counting.count), PLACES)):
        try:
            with Ending(at, ERRORS[number % len(ERRORS)]):
                outputs(model, put_on, x)
        except (*map(type, ERRORS), NetworkFormatError):  # the last one where a network is put on: a sentence
            ended += 1
        for strength, output in outputs(model, put_on, x).items():
            assert torch.equal(output, wanted[strength]), f"strength {strength} after operation {at} of {counting.count}"
    assert ended > PLACES / 2
    patcher.restore()
    assert torch.equal(model(x), plain)
    for name, parameter in model.named_parameters():
        assert parameter is before[name][0] and torch.equal(parameter, before[name][1]), name
