"""Memory: what was merged is given back beside what comes next, and on an accelerator what fits is merged."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from lib_lycoris import Patcher
from lib_lycoris.patching import discard, room
from tests.patching.test_modes import WIDE_BYTES, constant, random_lora, wide_layer
from tests.pretended_device import Device, Placed, move
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
        if thread is not threading.current_thread() and thread.daemon:
            thread.join(5)
    assert not [reference for reference in kept if reference() is not None]


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
