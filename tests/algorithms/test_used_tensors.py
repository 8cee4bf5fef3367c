"""Every tensor of a module is used, or the module is left out: nothing that a file holds is passed over in silence."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from lib_lycoris.algorithms import IGNORED, Algorithm
from lib_lycoris.errors import LycorisError
from lib_lycoris.networks.matching import parse_module
from lib_lycoris.networks.settings.source import SettingsSource
from tests.samples import CONFIGS, LAYERS, RANK, builders

KINDS = ("linear", "convolution")


def sample(kind: str, name: str) -> dict[str, Tensor]:
    return builders(kind)[name](torch.Generator().manual_seed(0), LAYERS[kind][1])


def others(kind: str) -> dict[str, Tensor]:
    """Return suffix -> a tensor that some algorithm has for a layer of a kind; only of whole numbers there are some that mark a form."""
    found = {suffix: tensor for name in sorted(builders(kind)) for suffix, tensor in sample(kind, name).items()}
    core, shape = torch.randn(RANK, RANK, generator=torch.Generator().manual_seed(4)), LAYERS[kind][1]
    found |= {suffix: core for suffix in ("hada_t1", "hada_t2", "lokr_t2", "lora_mid.weight") if suffix not in found}
    found |= {"scale": torch.tensor(0.5), "magnitude": torch.rand(shape[0]) + 1, "scalar": torch.tensor(0.5)}
    return {suffix: t for suffix, t in found.items() if suffix not in IGNORED and t.is_floating_point()}


def changes(kind: str, name: str, tensors: dict[str, Tensor]) -> list[Tensor]:
    """Return what a module changes of a layer's weight and bias; nothing where it is left out."""
    source = SettingsSource({"": CONFIGS[name]} if name in CONFIGS else {}, {}, None, False)
    shape = LAYERS[kind][1]
    try:
        found: dict[str, Algorithm] = parse_module(source, "module", tensors, shape)
    except LycorisError:
        return []
    if "weight" in found and (bias := found["weight"].on_bias(shape)):
        found.setdefault("bias", bias)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    base = {"weight": weight, "bias": weight.flatten(1)[:, 0]}
    if any(item.check_shape(tuple(base[leaf].shape)) for leaf, item in found.items()):
        return []
    return [found[leaf].beside(lambda: weight).delta(base[leaf]) for leaf in sorted(found)]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in sorted(builders(kind))])
def test_a_tensor_that_no_sample_has_there_is_used_or_keeps_the_module_out(kind: str, name: str) -> None:
    own, passed_over = sample(kind, name), []
    assert changes(kind, name, own)
    for suffix, tensor in others(kind).items():
        one, other = (changes(kind, name, {**own, suffix: value}) for value in (tensor, tensor * 1.5 + 0.1))
        if suffix not in own and one and other and all(torch.equal(a, b) for a, b in zip(one, other, strict=True)):
            passed_over.append(suffix)
    assert not passed_over


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in sorted(builders(kind))])
def test_each_tensor_of_a_sample_changes_what_it_does(kind: str, name: str) -> None:
    own = sample(kind, name)
    before = changes(kind, name, own)
    for suffix, tensor in own.items():
        if tensor.is_floating_point() and not (suffix == "alpha" and name in ("lokr_whole", "oft", "boft", "boft_rescaled")):
            after = changes(kind, name, {**own, suffix: tensor * 1.5 + 0.1})
            assert not after or not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), suffix


W1 = {"lokr_w1": (4, 4), "lokr_w1_a": (4, 2), "lokr_w1_b": (2, 4)}
W2 = {"lokr_w2": (4, 6), "lokr_w2_a": (4, 2), "lokr_w2_b": (2, 6), "lokr_t2": (2, 2)}


def test_a_lokr_has_each_factor_once() -> None:
    wholes = ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
    halves = ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"})
    read = 0
    for picks in product((False, True), repeat=7):
        shapes = {suffix: shape for (suffix, shape), pick in zip({**W1, **W2}.items(), picks, strict=True) if pick}
        first, second = set(shapes) & set(W1), set(shapes) & set(W2)
        made = changes("linear", "lokr", {suffix: torch.rand(shape) for suffix, shape in shapes.items()})
        wanted = first in wholes and second in (*halves, halves[1] | {"lokr_t2"})
        read += bool(made)
        assert not made or wanted, shapes.keys()
    assert read >= 4
