"""A base model and what is asked for -> the network that is trained, on its layers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ...errors import ToolError
from ...models import BaseModel, block_of, layout
from ...patching import Patcher
from ...tools.files.networks.naming import name_of
from ...tools.training.command import note
from ..models.base import TrainedModel
from .arguments import KEYWORDS, NetworkRequest
from .initial import Initial
from .preset_file import unused
from .selection import CONVOLUTIONS, NORMS, ChosenLayer, chosen_layers, preset
from .trained_network import TrainedModule, TrainedNetwork

KOHYA = {"unet": "lora_unet", "transformer": "lora_unet"}


def build_network(model: TrainedModel, request: NetworkRequest, parts: list[str], initial: Initial | None = None) -> TrainedNetwork:
    """Put fresh modules, or those of a file, on the layers of these components. Raises ToolError where there are none to train."""
    base = Patcher(model.parts(), model.family).base
    found = preset(request.preset, request.conv_dim is not None)
    _tell_unused(request.preset, [model.parts()[part] for part in parts])
    gc.freeze()  # T-LoRA's modules collect garbage one by one: over all that is loaded it takes half a second each
    try:
        modules = [one for part in parts for one in _of_component(model, request, found, base, part, initial)]
    finally:
        gc.unfreeze()
    if not modules:
        raise ToolError(f"the preset {request.preset} takes no layer of {', '.join(parts)}; choose another with --network_args preset=")
    names = [one.name for one in modules]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ToolError(f"the preset {request.preset} takes {twice} twice; mend its patterns")
    network = TrainedNetwork(modules)
    if initial is not None:
        initial.fill(network)
    for one in modules:
        one.module.to(model.device)
        one.module.requires_grad_(True)
        if request.freeze_down:
            one.module.lora_down.requires_grad_(False)
    return network


def _tell_unused(name: str, roots: list[nn.Module]) -> None:
    """Say what a preset's file names that this model has not: a mistake in a name would train less in silence."""
    missing = unused(Path(name), roots) if name.endswith(".toml") else []
    if missing:
        note(f"{Path(name).name} names what is not in the trained model: {', '.join(missing)}")


def _of_component(
    model: TrainedModel, request: NetworkRequest, found: dict[str, Any], base: BaseModel, part: str, initial: Initial | None
) -> Iterator[TrainedModule]:
    root = model.parts()[part]
    layers = list(chosen_layers(root, found, "unet" if part in KOHYA else "text_encoder", request.train_norm))
    for chosen, target, name in _named(base, part, layers):
        module = _module(name, chosen, request, found, _block_dims(request, base, target), initial.dims(target) if initial else None)
        if module is not None:
            yield TrainedModule(name, part, chosen.path, target, module)


def _named(base: BaseModel, part: str, layers: list[ChosenLayer]) -> Iterator[tuple[ChosenLayer, str, str]]:
    """Yield layers with their canonical names and those in a file: kohya's, or LyCORIS' where kohya's names make one of several layers."""
    whole = part in KOHYA
    paths = [one.path if whole or one.path.startswith("text_model.") else f"text_model.{one.path}" for one in layers]
    targets = [base.find(f"{part}.{path}") for path in paths]
    style = "kohya" if all(target is None or base.name_in("kohya", target) for target in targets) else "lycoris"
    for chosen, path, target in zip(layers, paths, targets):
        name = name_of(base, style, target) if target else None
        if target is None or name is None:
            raise ToolError(f"{part}.{path} has no name in a network file; leave it out with exclude_name in a preset")
        yield chosen, target, name


def _module(
    name: str, chosen: ChosenLayer, request: NetworkRequest, found: dict[str, Any], block: tuple[int, float] | None,
    stored: tuple[int, float] | None,
) -> Any:  # fmt: skip
    """Return lycoris-lora's module for a layer; None for one that the settings leave alone."""
    from lycoris.modules.norms import NormModule
    from lycoris.wrapper import network_module_dict

    layer, override = chosen.layer, {KEYWORDS.get(name, name): value for name, value in chosen.override.items()}
    algorithm = override.pop("algo", request.algorithm)
    if isinstance(layer, NORMS):
        return NormModule(name, layer, 1.0, request.rank_dropout, request.module_dropout)
    dim, alpha = (request.dim, request.alpha) if _plain(layer) else (request.conv_dim, request.conv_alpha)
    if not _plain(layer) and not (found.get("enable_conv", True) or "dim" in override):
        return None
    dim, alpha = block or (dim, alpha)
    dim, alpha = stored or (override.pop("dim", dim), override.pop("alpha", alpha))
    if not dim:
        return None
    options = {**request.options, **override}
    tucker = options.pop("use_tucker", request.use_tucker)
    kind = network_module_dict[algorithm]
    try:
        if algorithm == "tlora":  # takes no Tucker core
            return kind(name, layer, 1.0, dim, alpha, request.dropout, request.rank_dropout, request.module_dropout, **options)
        return kind(name, layer, 1.0, dim, alpha, request.dropout, request.rank_dropout, request.module_dropout, tucker, **options)
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise ToolError(
            f"{algorithm} cannot be trained on {name} ({type(layer).__name__}): {error}; choose another dim or preset"
        ) from error


def _plain(layer: nn.Module) -> bool:
    """Tell whether a layer counts as linear: a convolution of one pixel too."""
    return not isinstance(layer, CONVOLUTIONS) or all(side == 1 for side in layer.kernel_size)


def _block_dims(request: NetworkRequest, base: BaseModel, target: str) -> tuple[int, float] | None:
    """Return dim and alpha of a layer's block, where they are given by block."""
    if not request.block_dims:
        return None
    blocks = [name for name in layout(base.family) if name != "BASE"]
    if len(request.block_dims) != len(blocks) or (request.block_alphas and len(request.block_alphas) != len(blocks)):
        raise ToolError(f"block_dims and block_alphas take {len(blocks)} numbers for {base.label}: {', '.join(blocks)}")
    block = block_of(target, base.family)
    if block not in blocks:
        return None
    place = blocks.index(block)
    return int(request.block_dims[place]), request.block_alphas[place] if request.block_alphas else request.alpha
