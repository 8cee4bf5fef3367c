"""Memory: what was merged is given back beside what comes next, and on an accelerator what fits is merged."""

from __future__ import annotations

import mmap
import subprocess
import sys
import threading
import time
import types
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lib_lycoris import Patcher
from lib_lycoris.patching import discard, memory, room
from lib_lycoris.patching.memory import WORTH_A_MAPPING, lasting
from tests.patching.test_modes import WIDE_BYTES, constant, random_lora, wide_layer
from tests.pretended_device import Device, Placed, move, places
from tests.tiny_model import TinyModel, networks


@pytest.mark.slow
def test_gigabytes_are_given_back_beside_what_comes_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that were merged are gone a moment after the networks are, and nothing else holds them."""
    monkeypatch.setattr(discard, "WORTH_A_THREAD", 1)
    model = TinyModel()
    patcher = Patcher(model)
    patcher.apply([constant(networks(tmp_path, patcher, ["lora"])["lora"], 0.7)], "merged")
    with torch.no_grad():
        model(torch.ones(2, 8, 8, 8))
    kept = [weakref.ref(value) for layer in patcher._layers.values() for e in layer.effective.values() if (value := e._value) is not None]
    assert kept
    del value
    patcher.restore()
    for thread in threading.enumerate():
        if thread.name.endswith("(_give_back)"):
            thread.join(5)
    assert not [reference for reference in kept if reference() is not None]


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2))
@pytest.mark.parametrize("rows", (3, 1001))
def test_memory_for_what_stays_is_as_any_other(dtype: torch.dtype, rows: int) -> None:
    assert (3 * 257 * 8 < WORTH_A_MAPPING < 1001 * 257) and lasting((0, 4), dtype, torch.device("cpu")).shape == (0, 4)
    found = lasting((rows, 257), dtype, torch.device("cpu"))
    values = torch.arange(rows * 257).remainder(7).reshape(rows, 257).to(dtype)
    found.copy_(values)
    assert found.is_contiguous() and found.dtype == dtype and torch.equal(found.float(), values.float())
    assert torch.equal(found.clone().float(), values.float()) and found.untyped_storage().nbytes() == rows * 257 * dtype.itemsize


def test_what_is_merged_on_a_cpu_is_mapped_for_itself_and_where_it_cannot_be_is_torch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    made, refused = list[int](), list[bool]()

    def mapping(*given: Any, **options: Any) -> mmap.mmap:
        if refused:
            raise OSError(12, "Cannot allocate memory")
        made.append(given[1])
        return mmap.mmap(*given, **options)

    monkeypatch.setattr(memory, "mmap", types.SimpleNamespace(mmap=mapping))
    outputs = []
    for _ in range(2):
        torch.manual_seed(0)
        patcher, wide = wide_layer()
        patcher.apply([constant(random_lora(patcher), 0.5)], "merged")
        with torch.no_grad():
            outputs.append(wide(torch.ones(1, 320)))
        refused.append(True)
    assert made == [320 * 320 * 4] and torch.equal(*outputs)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process' memory this way")
def test_all_memory_of_what_stayed_goes_back_to_the_system() -> None:
    """Also where something small, which is still there, lies behind it in malloc's heap."""
    program = """
import torch
from lib_lycoris.patching.memory import lasting
from tests.benchmarks.memory import anonymous
make = lambda: lasting((1 << 18,), torch.float32, torch.device("cpu")).zero_()
make(), torch.empty(30 << 18)  # what is freed raises the size from which malloc maps
before, values, small = anonymous(), [], []
for _ in range(100):
    values.append(make())
    small.append(bytes(2000))
taken = anonymous() - before
values.clear()
print(taken >> 20, anonymous() - before >> 20)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    taken, left = map(int, done.stdout.split())
    assert taken >= 99 and left <= 2  # 99 with torch.empty


def test_what_goes_slowly_goes_at_once_where_memory_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next networks do not come beside all that those before kept."""
    monkeypatch.setattr(discard, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(discard, "AT_ONCE", 1)
    monkeypatch.setattr(discard, "BUSY", -1)  # as if something were computed all the time
    monkeypatch.setattr(discard, "PAUSE", 600)
    values = [torch.empty(1 << 20) for _ in range(20)]
    kept = [weakref.ref(value) for value in values]
    discard.discard([types.SimpleNamespace(let_go=lambda: [values.pop() for _ in range(20)])])  # type: ignore[list-item]
    thread = next(thread for thread in threading.enumerate() if thread.name.endswith("(_give_back)"))
    time.sleep(0.2)
    assert any(reference() is not None for reference in kept), "it waits between"
    discard.discard([])
    time.sleep(0.1)
    assert any(reference() is not None for reference in kept), "no network comes"
    discard.make_room()
    thread.join(5)
    assert not any(reference() is not None for reference in kept)


def test_the_next_networks_ask_for_room_and_an_image_without_any_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("lib_lycoris.patching.patcher.make_room", lambda: asked.append("room"))
    patcher = Patcher(TinyModel())
    network = constant(networks(tmp_path, patcher, ["lora"])["lora"], 0.7)
    patcher.apply([], "merged")
    patcher.restore()
    assert asked == []
    patcher.apply([network], "merged")
    assert asked == ["room"]


def test_a_process_that_computes_is_told_from_one_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discard, "LOOK", 0.05)
    hurry, done = threading.Event(), threading.Event()
    assert not all(discard._is_computing(hurry) for _ in range(40))  # several looks: others have the processors too

    def compute() -> None:
        while not done.is_set():
            sum(range(1000))

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        assert any(discard._is_computing(hurry) for _ in range(40))
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
def test_a_program_that_ends_meanwhile_gives_back_the_rest_at_once_and_ends_well() -> None:
    """A thread that is ended while torch frees something would abort the process."""
    program = """
import types, torch
from lib_lycoris.patching import discard
discard.WORTH_A_THREAD, discard.AT_ONCE, discard.BUSY = 1, 1, -1
discard.discard([types.SimpleNamespace(let_go=lambda: [torch.zeros(1 << 14) for _ in range(3000)])])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@torch.no_grad()
@pytest.mark.parametrize("mode", ["merged", "auto"])
def test_what_is_kept_goes_with_its_layer(mode: Any) -> None:
    """Memory that a program frees by moving a layer - here to another dtype - is free; one that stays where it is keeps its weight."""
    patcher, wide = wide_layer()
    patcher.apply([constant(random_lora(patcher), 0.7)], mode)
    tokens = torch.randn(8192, 320)
    wide(tokens)
    effective = patcher.layer(wide).effective["weight"]  # type: ignore[union-attr]
    kept = weakref.ref(effective._value)  # type: ignore[arg-type]
    patcher.modules[""].to("cpu")
    assert kept() is effective._value is not None
    patcher.modules[""].double()
    assert kept() is None
    with torch.no_grad():
        twin, other = wide_layer(torch.float64)
        other.load_state_dict(wide.state_dict())
        twin.apply([constant(random_lora(twin), 0.7)], "merged")
    torch.testing.assert_close(wide(tokens.double()), other(tokens.double()), rtol=1e-12, atol=1e-12)
    patcher.restore()
    assert not {"_apply", "forward"} & wide.__dict__.keys()


@torch.no_grad()
def test_a_layer_that_leaves_within_a_step_is_not_merged_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs with very little memory bring one part at a time; one that stays for an image is merged for each."""
    monkeypatch.setattr(room, "free_bytes", lambda device: 1 << 30)
    patcher, wide = wide_layer()
    root, tokens, ways = patcher.modules[""], torch.randn(64, 320), {}

    def bring(there: bool) -> None:
        root._apply(lambda tensor: places(tensor, there))

    for leaving in ("an image", "a step"):  # the image's last step has another size, as where guidance ends early
        patcher.restore()
        patcher.apply([constant(random_lora(patcher), 0.7)])
        layer = patcher.layer(wide)
        assert layer is not None
        ways[leaving] = []
        with Device():
            for step in (*range(4), *range(4)):  # of two images
                patcher.step(step, 4)
                bring(True)
                wide(Placed(tokens[: 64 if step < 3 else 32]))
                ways[leaving].append(layer.way(Placed(tokens)))
                if leaving == "a step" or step == 3:
                    bring(False)
                    assert layer.effective["weight"]._value is None
    assert ways == {"an image": ["merged"] * 8, "a step": ["merged", *["functional"] * 7]}


@torch.no_grad()
@pytest.mark.parametrize(("free", "bound", "expected"), [(1 << 30, None, 2), (1 << 30, 0, 0), (0, None, 0), (6 * WIDE_BYTES, None, 1)])
def test_on_an_accelerator_what_fits_is_merged(free: int, bound: int | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the free memory, asked for once a change, and no more than the user allows."""
    asked: list[torch.device] = []
    monkeypatch.setattr(room, "free_bytes", lambda device: asked.append(device) or free)
    patcher, _ = wide_layer(layers=("to_q", "to_k"))
    network = random_lora(patcher, ("to_q", "to_k"))
    patcher.workspace.merged_bytes = bound
    found = [module for module in patcher.modules.values() if isinstance(module, nn.Linear)]
    with Device():
        for module in found:
            move(module, True)
        patcher.apply([constant(network, 0.7)])
        tokens = Placed(torch.randn(64, 320))
        layers = [patcher.layer(module) for module in found]
        ways = [layer.way(tokens) for layer in layers if layer is not None]
    assert len(asked) == 1 and len(ways) == 2
    assert ways.count("merged") == expected and set(ways) <= {"merged", "functional"}
