"""A layer's own forward with other parameters than the module holds: from the cheapest way to the one that always works.

torch's own forwards are one operation, which is called directly. A method of the module's class is called on a stand-in that shares all
but the parameters. What another program has bound to the module itself can only be called while the module holds the others: then no
other thread may use it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ModelMismatchError

Operation = Callable[[Any, Tensor, Any, Any], Tensor]  # (module, input, weight, bias)


def _convolve(module: Any, x: Tensor, weight: Any, bias: Any) -> Tensor:
    found: Tensor = module._conv_forward(x, weight, bias)
    return found


OPERATIONS: dict[type[nn.Module], Operation] = {
    nn.Linear: lambda module, x, weight, bias: F.linear(x, weight, bias),
    nn.Conv1d: _convolve,
    nn.Conv2d: _convolve,
    nn.Conv3d: _convolve,
    nn.LayerNorm: lambda module, x, weight, bias: F.layer_norm(x, module.normalized_shape, weight, bias, module.eps),
    nn.GroupNorm: lambda module, x, weight, bias: F.group_norm(x, module.num_groups, weight, bias, module.eps),
}


def is_method_of(inner: Any, module: nn.Module) -> bool:
    """Tell whether a forward is a function bound to this module and to nothing else."""
    return getattr(inner, "__self__", None) is module and hasattr(inner, "__func__")


def reads_children(module: nn.Module) -> bool:
    """Tell whether a module reads the parameters of the layers in it, and calls none: as attention and attention pools do."""
    kind: Any = type(module)
    return _reads_children(kind)


@cache
def _reads_children(kind: Any) -> bool:
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return issubclass(kind, nn.MultiheadAttention) or (code is not None and "multi_head_attention_forward" in code.co_names)


def operation(inner: Any) -> Operation | None:
    """Return what torch's own forward computes; None for any other one, also where it stands in torch's place in the class."""
    function = getattr(inner, "__func__", None)
    for kind, found in OPERATIONS.items():
        own = getattr(function, "__qualname__", None) == f"{kind.__name__}.forward"
        if own and getattr(function, "__globals__", None) is sys.modules[kind.__module__].__dict__:
            return found
    return None


def plain_forward(module: nn.Module, inner: Any, values: Mapping[str, Tensor]) -> Callable[..., Any] | None:
    """Return (inner, input) -> output with these parameters where the forward is torch's own; None where it is not."""
    compute = operation(inner) if is_method_of(inner, module) else None
    if compute is None:
        return None
    weight, bias, table = values.get("weight"), values.get("bias"), module._parameters
    if not {"weight", "bias"} <= table.keys():
        return None
    if compute is OPERATIONS[nn.Linear] and weight is not None:  # the commonest by far
        if bias is None:
            return lambda inner, input: F.linear(input, weight, table["bias"])  # torch's name for it
        return lambda inner, input: F.linear(input, weight, bias)

    def run(inner: Any, input: Tensor) -> Tensor:
        return compute(module, input, table["weight"] if weight is None else weight, table["bias"] if bias is None else bias)

    return run


def stand_in(module: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """Return a module that shares everything with this one but these parameters; dotted names are of its children."""
    twin = object.__new__(type(module))
    table, own = twin.__dict__, {leaf: value for leaf, value in values.items() if "." not in leaf}
    if lacking := own.keys() - module._parameters.keys():
        raise ModelMismatchError(f"a layer of the kind {type(module).__name__} computes its {', '.join(lacking)} and does not hold it")
    table.update(module.__dict__)
    table["_parameters"] = {**module._parameters, **own}
    children: dict[str, dict[str, Tensor]] = {}
    for name in values.keys() - own.keys():
        child, _, leaf = name.partition(".")
        children.setdefault(child, {})[leaf] = values[name]
    if children:
        table["_modules"] = {**module._modules, **{child: stand_in(module._modules[child], of) for child, of in children.items()}}  # type: ignore[arg-type]
    return twin


@contextmanager
def exchanged(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Have the module hold these parameters for that long.

    As aliases: what another program's forward does to the parameters that it finds - diffusers' layerwise casting moves them to the dtype
    they are stored in and back - is not done to ours, which are used again.
    """
    places = [(module.get_submodule(name.rpartition(".")[0])._parameters, name.rpartition(".")[2], value) for name, value in values.items()]
    own = [table[leaf] for table, leaf, _ in places]
    try:
        for table, leaf, value in places:
            table[leaf] = nn.Parameter(value.detach(), requires_grad=False)
        yield
    finally:
        for (table, leaf, _), parameter in zip(places, own):
            table[leaf] = parameter
