"""Several threads on one patched model at once: each gets what it would get alone, on every path, and the base weights stay."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lib_lycoris import Activation, Patcher
from lib_lycoris.patching import Strength
from tests.tiny_model import MODES, TinyModel, networks

ALGORITHMS = ["lora", "loha", "lokr", "oft", "dora_out", "glora", "full", "norm"]
THREADS, CALLS = 4, 12


class Rising:
    """A strength that the steps change."""

    def value(self, step: int, steps: int) -> float:
        return 0.3 + 0.4 * step / steps


@pytest.fixture(autouse=True)
def switched_often() -> Iterator[None]:
    """Let Python change threads between nearly any two instructions."""
    before, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-6)
    torch.set_num_threads(1)
    yield
    sys.setswitchinterval(before)
    torch.set_num_threads(threads)


def together(work: Callable[[int], None]) -> None:
    """Run work(0), work(1), ... at the same time; raise what any of them raised."""
    start, errors = threading.Barrier(THREADS), []

    def run(index: int) -> None:
        try:
            start.wait()
            with torch.no_grad():
                work(index)
        except Exception as error:  # noqa: BLE001 - a thread's error is raised in the test's own
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def own_forward(model: nn.Module) -> None:
    """Give every layer a forward of its own, as other programs do, which looks at the parameters when it is called."""
    for module in model.modules():
        if module._parameters:
            kind = type(module)
            module.forward = lambda *args, module=module, kind=kind: kind.forward(module, *args)  # type: ignore[method-assign]


@pytest.mark.parametrize("strength", [0.7, Rising()], ids=["constant", "varying"])
@pytest.mark.parametrize("hooked", [False, True], ids=["plain", "hooked"])
@pytest.mark.parametrize("mode", MODES)
def test_threads_do_not_meet(mode: str, hooked: bool, strength: Strength, tmp_path: Path) -> None:
    """Inputs of different sizes, so that in auto one thread may take another way than its neighbour."""
    model = TinyModel()
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in model.named_parameters()}
    if hooked:
        own_forward(model)
    patcher = Patcher(model)
    found = networks(tmp_path, patcher, ALGORITHMS)
    inputs = [torch.randn(1 + index, 8, 8, 8, generator=torch.Generator().manual_seed(index)) for index in range(THREADS)]
    wanted: list[Tensor] = []
    activations = [Activation(network, lambda name: strength) for network in found.values()]
    with torch.no_grad():
        patcher.apply(activations, mode)  # type: ignore[arg-type]
        patcher.step(1, 4)
        wanted += [model(x) for x in inputs]
        patcher.restore()  # the threads find nothing prepared
        patcher.apply(activations, mode)  # type: ignore[arg-type]
    wrong: list[int] = []

    def work(index: int) -> None:
        wrong.extend(index for _ in range(CALLS) if not torch.equal(model(inputs[index]), wanted[index]))

    together(work)
    assert not wrong, f"{len(wrong)} of {THREADS * CALLS} results are wrong"
    patcher.restore()
    for name, parameter in model.named_parameters():
        assert parameter is before[name][0] and torch.equal(parameter, before[name][1]), name
