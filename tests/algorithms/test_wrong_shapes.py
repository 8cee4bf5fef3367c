"""Every algorithm x suffix x wrong shape: a sentence that names it, or a change of the layer's own shape; never another exception."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lib_lycoris.algorithms import Config, parse
from lib_lycoris.errors import NetworkFormatError
from tests.samples import CONFIGS, LAYERS, builders

CRASHES = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError)
NAMES = [(kind, name) for kind in ("linear", "convolution", "norm") for name in builders(kind)]


def wrong(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Give a tensor in shapes and dtypes that it must not have."""
    shape = tensor.shape
    yield "no axis", torch.ones((), dtype=tensor.dtype)
    yield "one axis", tensor.flatten()
    yield "five axes", tensor.reshape(*shape, *(1,) * (5 - tensor.dim()))
    yield "six axes", tensor.reshape(*shape, *(1,) * (6 - tensor.dim()))
    yield "empty", tensor[:0] if tensor.dim() else torch.empty(0)
    for axis in range(tensor.dim()):
        yield f"axis {axis} empty", tensor.narrow(axis, 0, 0)
        yield f"axis {axis} longer", torch.cat((tensor, tensor.narrow(axis, 0, 1)), axis)
        if shape[axis] > 1:
            yield f"axis {axis} shorter", tensor.narrow(axis, 0, shape[axis] - 1)
            yield f"axis {axis} of one", tensor.narrow(axis, 0, 1)
    yield "turned", tensor.permute(list(reversed(range(tensor.dim()))))
    yield "negative", -torch.ones_like(tensor) if tensor.dtype != torch.bool else tensor
    yield "large", torch.full_like(tensor, 30_000)
    yield "float", tensor.double() if not tensor.is_floating_point() else tensor.to(torch.int32)


def understood(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether the tensors are a change of the layer. Raises NetworkFormatError where no algorithm understands them."""
    found, left = parse(tensors, Config(CONFIGS.get(name)))
    if left:
        return False
    for leaf, algorithm in found.items():
        target = shape if leaf == "weight" else shape[:1]
        problem = algorithm.check_shape(target)
        if problem is not None:
            assert len(problem) > 10
            return False
        delta = algorithm.delta(torch.randn(target, generator=torch.Generator().manual_seed(1)))
        assert delta.shape == target, (name, leaf)
    return True


def crash(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], what: str) -> list[str]:
    """Return what went wrong in another way than by a sentence."""
    try:
        understood(tensors, name, shape)
    except NetworkFormatError as error:
        named = any(suffix.split(".")[0].split("_")[0] in str(error).lower() for suffix in tensors)
        return [] if named else [f"{name}: {what}: {error}"]
    except CRASHES as error:
        return [f"{name}: {what}: {error!r}"]
    return []


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_wrong_tensor_is_a_sentence(kind: str, name: str) -> None:
    shape, found = LAYERS[kind][1], []
    tensors = builders(kind)[name](torch.Generator().manual_seed(0), shape)
    assert understood(tensors, name, shape)
    for suffix, tensor in tensors.items():
        if rest := {key: value for key, value in tensors.items() if key != suffix}:
            found += crash(rest, name, shape, f"without {suffix}")
        for what, made in wrong(tensor):
            found += crash({**tensors, suffix: made}, name, shape, f"{suffix} {tuple(tensor.shape)}, {what} {tuple(made.shape)}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_other_layer_is_a_sentence(kind: str, name: str) -> None:
    tensors = builders(kind)[name](torch.Generator().manual_seed(0), LAYERS[kind][1])
    shapes = [(), (1,), (16,), (7, 5), (16, 24, 3), (16, 8, 1, 1), (16, 8, 3, 3, 3), (1, 1), (24, 16), (32, 48)]
    found = [text for shape in shapes for text in crash(tensors, name, shape, f"on {shape}")]
    assert not found, "\n".join(found)
