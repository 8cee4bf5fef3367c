"""A file's modules and the layers of a base model: which change makes which, and why the others make none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .. import models
from ..algorithms import Algorithm, parse
from ..algorithms.padded import Padded
from ..errors import ModelMismatchError, NetworkFormatError, naming, readable
from .header import MOST_AXES
from .keys import Keys, joined
from .limits import check_settings, check_tensors, single
from .network import Skipped
from .reader import TensorFile
from .settings import SettingsSource

SLICES = ("q", "k", "v", "mlp")
PLAIN_CHANNELS = 4  # what a latent has; inpainting and edit models add a mask or another latent behind it
FIRST_CONVOLUTION = "diffusion_model.input_blocks.0.0"


@dataclass
class Match:
    """What of a file changes which parameter, and what does not."""

    patches: dict[str, Algorithm] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    misfits: list[tuple[str, str]] = field(default_factory=list)


def match(file: TensorFile, keys: Keys, source: SettingsSource, tensors: Mapping[str, Tensor], base: models.BaseModel) -> Match:
    """Find the layer that each module of a file is for; refuses nothing, the rest is in ``skipped`` and ``misfits``."""
    targets = {module: _target(base, module) for module in keys.modules}
    grouped = joined(keys, ((targets[module] or f"?{module}", module) for module in keys.modules))
    found = Match(skipped=[Skipped(*item) for item in keys.unknown])
    for module, suffixes in grouped.items():
        target = targets[module]
        try:
            if target is None:
                raise NetworkFormatError(f"{base.label} has no layer of this name")
            if doubt := keys.doubtful.get(module):
                raise NetworkFormatError(doubt)
            with naming(module):
                patches = _patches(source, base, module, target, {suffix: tensors[key] for suffix, key in suffixes.items()})
            _add(found, patches, module)
        except ModelMismatchError as error:
            found.misfits.append((module, str(error)))
            found.skipped.extend(Skipped(key, str(error)) for key in suffixes.values())
        except NetworkFormatError as error:
            found.skipped.extend(Skipped(key, str(error)) for key in suffixes.values())
    return found


def reference_model(file: TensorFile, keys: Keys, family: str | None) -> models.BaseModel:
    """Return the full-size model that a file is for: the detected one, else the one that has most of its layers."""
    if family is not None:
        return models.reference(family)
    candidates = [models.reference(name) for name in models.FAMILIES]
    best = max(candidates, key=lambda model: sum(model.find(_whole(m)[0]) is not None for m in keys.modules))
    if keys.modules and not any(best.find(_whole(module)[0]) for module in keys.modules):
        shown = next(iter(keys.modules))
        raise NetworkFormatError(f"{file.path.name} is for no base model known here: none has a layer like {shown}")
    return best


def _whole(module: str) -> tuple[str, int | None]:
    """Split a module of kohya's sliced Flux rotations into its layer and the slice's number."""
    if not module.endswith("]"):
        return module, None
    layer, _, number = module[:-1].rpartition("[")
    return layer, int(number)


def _target(base: models.BaseModel, module: str) -> str | None:
    layer, number = _whole(module)
    target = base.find(layer)
    return f"{target}[{SLICES[number]}]" if target is not None and number is not None and number < len(SLICES) else target


def _patches(
    source: SettingsSource, base: models.BaseModel, module: str, target: str, tensors: Mapping[str, Tensor]
) -> dict[str, Algorithm]:
    """Return parameter name -> change of one module. Raises NetworkFormatError, ModelMismatchError where one of them does not fit."""
    shape = slice_shape(base, target)
    patches = parse_module(source, module, tensors, shape)
    if "weight" in patches and (bias := patches["weight"].on_bias(shape)):
        patches.setdefault("bias", bias)
    found = {}
    for leaf, algorithm in patches.items():
        name, wanted = models.parameter(target, leaf), shape if leaf == "weight" else shape[:1]
        problem = algorithm.check_shape(wanted)
        if problem and name == FIRST_CONVOLUTION + ".weight" and wanted[1] > PLAIN_CHANNELS:
            padded = Padded(inner=algorithm, channels=PLAIN_CHANNELS)
            if not padded.check_shape(wanted):
                algorithm, problem = padded, None
        if problem:
            raise ModelMismatchError(problem)
        found[name] = algorithm
    return found


def _add(found: Match, patches: Mapping[str, Algorithm], module: str) -> None:
    """Add all changes of a module, or none."""
    if taken := next((name for name in patches if name in found.patches), None):
        raise NetworkFormatError(f"{readable(found.modules[taken])} changes the same parameter, {taken}")
    found.patches.update(patches)
    found.modules.update(dict.fromkeys(patches, module))


def parse_module(
    source: SettingsSource, module: str, tensors: Mapping[str, Tensor], shape: Sequence[int] | None = None
) -> dict[str, Algorithm]:
    """Turn one module's ``suffix -> tensor`` into ``leaf -> algorithm``, with what its file says besides; shape: of its layer, if known.

    Raises NetworkFormatError where a tensor is no part of what the others make: a module is understood whole or not at all.
    """
    check_tensors(tensors)
    settings = source.settings(module, {suffix: tuple(t.shape) for suffix, t in tensors.items()})
    named = dict(tensors)
    if "magnitude" in named:
        named["dora_scale"] = named.pop("magnitude")
    if "reshape_weight" in named:
        _check_widened(named.pop("reshape_weight"), shape)
    if "scale" in named and set(named) == {"scale"} and named["scale"].dim() == 1:
        named = {"set_weight": named["scale"]}  # Flux' norms call their parameter so; BFL's control networks bring it whole
    elif "scale" in named:
        settings["fixed_scale"] = single(named.pop("scale"), "scale")
    if split_rank := settings.pop("split_rank", None):
        settings["fixed_scale"] = single(named["alpha"], "alpha") / split_rank
    if settings.pop("alpha_is_cubed_scale", False):
        settings["fixed_scale"] = single(named["alpha"], "alpha") ** (1 / 3)
    check_settings(settings)
    patches, left = parse(named, **settings)
    if left:
        raise NetworkFormatError(f"{', '.join(sorted(left))} is no part of the algorithm that the layer's other tensors make")
    return patches


def _check_widened(stored: Tensor, shape: Sequence[int] | None) -> None:
    """Raise where a network is for a layer that the trainer made wider than the model's."""
    wanted = tuple(int(number) for number in stored.flatten()[:MOST_AXES])
    if shape is not None and wanted != tuple(shape):
        raise ModelMismatchError(
            f"reshape_weight says that the layer is {wanted}, but it is {tuple(shape)} - is this file for another model?"
        )


def slice_shape(base: models.BaseModel, target: str) -> tuple[int, ...]:
    """Return the weight's shape of a canonical module, or of the part of a fused one that ``module[part]`` names."""
    module, _, part = target.partition("[")
    shape = tuple(base.layers[module].shape)
    if not part:
        return shape
    if part == "T]":
        return shape[::-1]
    count = sum(len(range(*r.indices(shape[0]))) for r in models.rows(part[:-1], shape))
    return (count, *shape[1:])
