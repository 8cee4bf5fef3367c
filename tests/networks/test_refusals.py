"""What must not be applied, whole or in one module, and what the sentence must name: one folder a case under ``refuse``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_lycoris import Activation, Patcher, load
from lib_lycoris.errors import LycorisError
from tests.corpus_loader import live_model

CASES = sorted((Path(__file__).parent / "refuse").glob("*/case.json"))


def layers_of(case: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the layers that a case is tried on, with weights of their own."""
    g = torch.Generator().manual_seed(1)
    found = {}
    for name, info in case["layers"].items():
        weight = torch.randn(info["shape"], generator=g) * 0.08
        bias = torch.randn(info["shape"][0], generator=g) * 0.05 if info["bias"] else None
        found[name] = {"kind": info["kind"], "stride": info["stride"], "weight": weight, "bias": bias}
    return found


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.parent.name)
def test_what_is_not_understood_whole_is_not_applied_and_named(path: Path) -> None:
    case = json.loads(path.read_text("utf-8"))
    layers = layers_of(case)
    model, found = live_model(layers)
    patcher = Patcher(model, case["arch"])
    changed: set[str] = set()
    try:
        network = load(path.parent / "network.safetensors", patcher.base)
        patcher.apply([Activation(network, lambda name: 1.0)], "merged")
        for name, module in found.items():
            layer = patcher.layer(module)
            if layer is not None and not torch.equal(layer.parameter("weight"), layers[name]["weight"]):  # type: ignore[arg-type]
                changed.add(name)
        said = "; ".join(f"{item.key}: {item.reason}" for item in network.skipped)
    except LycorisError as error:
        said = str(error)
    if case.get("may_apply") and changed >= set(case["must_stay"]):
        return  # read instead of refused, by a method that was not known when the case was made
    assert not changed & set(case["must_stay"])
    assert changed >= set(case["must_change"])
    missing = [words for words in case["sentence_must_name"] if not re.search(words, said.replace(case["name"], ""), re.IGNORECASE)]
    assert not missing, said


def test_there_are_cases() -> None:
    assert len(CASES) >= 16
