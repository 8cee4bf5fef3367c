"""The library as ``check.py --loader tests.corpus_loader:apply`` calls it: a case's layers as a live model, our patches on it.

``apply`` goes through the merged path; ``apply_functional`` takes the changed weight from the functional path's outputs on basis vectors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lib_lycoris import Activation, Patcher, load

Layers = dict[str, dict[str, Any]]


def put(root: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Place a module under a dotted name and return it; an attention's out_proj takes over what is placed there."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    if last in root._modules:
        for leaf, value in module.state_dict().items():
            getattr(root._modules[last], leaf).data = value
        return root._modules[last]  # type: ignore[return-value]
    root.add_module(last, module)
    return module


def build(layer: dict[str, Any]) -> nn.Module:
    """Return a real torch layer that holds the case's base weight."""
    weight: Tensor = layer["weight"]
    bias: Tensor | None = layer["bias"]
    if layer["kind"] == "mha_in_proj":
        module: nn.Module = nn.MultiheadAttention(weight.shape[1], 1, bias=True, batch_first=True)
        state = {"in_proj_weight": weight, "out_proj.weight": torch.eye(weight.shape[1])}
    elif layer["kind"] == "ln" or (weight.dim() == 1 and layer["kind"] != "gn"):
        module, state = nn.LayerNorm(weight.shape[0]), {"weight": weight}
    elif layer["kind"] == "gn":
        module, state = nn.GroupNorm(1, weight.shape[0]), {"weight": weight}
    elif weight.dim() == 4:
        kernel = tuple(weight.shape[2:])
        stride = layer["stride"] or 1
        module = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, stride=stride, padding=kernel[0] // 2, bias=bias is not None)  # type: ignore[arg-type]
        state = {"weight": weight}
    else:
        module, state = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None), {"weight": weight}
    if bias is not None:
        state["bias"] = bias
    module.load_state_dict({**module.state_dict(), **state})
    return module.eval()


def live_model(layers: Layers) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Return a model with the case's layers under their names, and each layer by its name in the case."""
    root, found = nn.Module(), {}
    for name in sorted(layers):  # an attention before its out_proj
        found[name] = put(root, name.removesuffix(".in_proj_weight"), build(layers[name]))
    return root, found


def activate(path: str, layers: Layers, arch: str, strength: float, mode: str) -> tuple[Patcher, dict[str, nn.Module]]:
    """Put a network on a model made of a case's layers."""
    model, found = live_model(layers)
    patcher = Patcher(model, arch)
    network = load(path, patcher.base)
    patcher.apply([Activation(network, lambda name: strength)], mode)  # type: ignore[arg-type]
    return patcher, found


def apply(path: str, layers: Layers, arch: str, strength: float) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return the effective weight and bias of every layer that the merged path changes."""
    patcher, found = activate(path, layers, arch, strength, "merged")
    results = {}
    for name, module in found.items():
        parent = found.get(name.removesuffix("out_proj") + "in_proj_weight")
        inside = name.endswith(".out_proj") and parent is not None  # an attention reads its out_proj's parameters itself
        layer = patcher.layer(parent if inside else module)  # type: ignore[arg-type]
        if layer is None:
            continue
        leaf = "in_proj_weight" if name.endswith("in_proj_weight") else "out_proj.weight" if inside else "weight"
        bias = None if leaf == "in_proj_weight" else layer.parameter(leaf.replace("weight", "bias"))
        results[name] = (layer.parameter(leaf).detach(), None if bias is None else bias.detach())  # type: ignore[union-attr]
    return results


@torch.no_grad()
def apply_functional(path: str, layers: Layers, arch: str, strength: float) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return weights and biases read off the functional path's outputs: the layers' answers to basis vectors and to nothing."""
    patcher, found = activate(path, layers, arch, strength, "functional")
    results: dict[str, tuple[Tensor, Tensor | None]] = {}
    for name, module in found.items():
        parent = found.get(name.removesuffix("out_proj") + "in_proj_weight")
        if parent is not None and name.endswith(".out_proj"):
            attention = patcher.layer(parent)
            if attention is not None:
                results[name] = (_projected(attention, ["out"]), module.bias)  # type: ignore[assignment]
        elif (layer := patcher.layer(module)) is not None:
            results[name] = probe(module, layer)
    return results


def _projected(attention: Any, names: list[str]) -> Tensor:
    """Return the rows of the matrix that an attention's projections act as."""
    eye, zero = torch.eye(attention.module.embed_dim), torch.zeros(1, attention.module.embed_dim)
    return torch.cat([(attention.project(name, eye) - attention.project(name, zero)).T for name in names])


def probe(module: nn.Module, layer: Any) -> tuple[Tensor, Tensor | None]:
    """Return the weight and bias that a live layer acts as."""
    if isinstance(module, nn.MultiheadAttention):
        return _projected(layer, ["q", "k", "v"]), None
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
        return _probe_norm(module)
    if isinstance(module, nn.Conv2d):
        return _probe_convolution(module)
    bias = module(torch.zeros(1, module.in_features))[0]  # type: ignore[arg-type]
    if "weight" not in layer.edits:  # only the bias is changed: what is read off would be the rounding of y + bias - bias
        return module.weight.detach(), bias
    return (module(torch.eye(module.in_features)) - bias).T, bias  # type: ignore[arg-type]


def _probe_norm(module: nn.Module) -> tuple[Tensor, Tensor]:
    width = module.weight.shape[0]  # type: ignore[index,union-attr]
    x = torch.randn(8, width, generator=torch.Generator().manual_seed(0))
    plain = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + module.eps).sqrt()  # type: ignore[operator]
    y = module(x)
    solved = [torch.linalg.lstsq(torch.stack((plain[:, c], torch.ones(8)), 1), y[:, c : c + 1]).solution.flatten() for c in range(width)]
    both = torch.stack(solved)
    return both[:, 0], both[:, 1]


def _probe_convolution(module: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Put one pixel of one channel under every place of the kernel."""
    channels, (height, width) = module.in_channels, module.kernel_size
    size = 4 * max(height, width) * module.stride[0] + 1
    empty = module(torch.zeros(1, channels, size, size))
    bias = empty[0, :, empty.shape[2] // 2, empty.shape[3] // 2]
    row = empty.shape[2] // 2
    weight = torch.zeros(module.out_channels, channels, height, width)
    for i in range(height):
        for j in range(width):
            x = torch.zeros(channels, channels, size, size)
            y0 = row * module.stride[0] - module.padding[0] + i  # type: ignore[operator]
            x0 = row * module.stride[1] - module.padding[1] + j  # type: ignore[operator]
            x[range(channels), range(channels), y0, x0] = 1
            weight[:, :, i, j] = (module(x)[:, :, row, row] - bias).T
    return weight, bias
