"""A file's modules and the layers of a base model: which change makes which, and why the others make none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .. import models
from ..algorithms import Algorithm, parse
from ..algorithms.padded import Padded
from ..errors import NetworkFormatError
from .keys import Keys
from .network import Skipped
from .reader import TensorFile
from .settings import SettingsSource, read_source

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


def match(file: TensorFile, keys: Keys, tensors: Mapping[str, Tensor], base: models.BaseModel) -> Match:
    """Find the layer that each module of a file is for; refuses nothing, the rest is in ``skipped`` and ``misfits``."""
    source = read_source(file.path, file.metadata, list(file.tensors))
    found = Match(skipped=[Skipped(*item) for item in keys.unknown])
    for module, suffixes in keys.modules.items():
        _add_module(found, base, source, module, {suffix: tensors[key] for suffix, key in suffixes.items()}, suffixes)
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


def _add_module(
    found: Match,
    base: models.BaseModel,
    source: SettingsSource,
    module: str,
    tensors: Mapping[str, Tensor],
    keys: Mapping[str, str],
) -> None:
    layer, number = _whole(module)
    target = base.find(layer)
    if target is None:
        reason = f"{base.label} has no layer of this name"
        found.skipped.extend(Skipped(key, reason) for key in keys.values())
        return
    if number is not None:
        target = f"{target}[{SLICES[number]}]" if number < len(SLICES) else target
    try:
        patches, left = parse_module(source, module, tensors)
    except NetworkFormatError as error:
        found.skipped.extend(Skipped(key, str(error)) for key in keys.values())
        return
    found.skipped.extend(Skipped(keys[s], "no part of the algorithm that the layer's other tensors make") for s in sorted(left))
    shape = slice_shape(base, target)
    if "weight" in patches and (bias := patches["weight"].on_bias(shape)):
        patches.setdefault("bias", bias)
    for leaf, algorithm in patches.items():
        _add_patch(found, models.parameter(target, leaf), algorithm, shape if leaf == "weight" else shape[:1], module, keys)


def parse_module(source: SettingsSource, module: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Algorithm], set[str]]:
    """Turn one module's ``suffix -> tensor`` into ``leaf -> algorithm`` and the suffixes left over, with what its file says besides."""
    settings = source.settings(module, {suffix: tuple(t.shape) for suffix, t in tensors.items()})
    named = dict(tensors)
    if "magnitude" in named:
        named["dora_scale"] = named.pop("magnitude")
    if "scale" in named:
        settings["fixed_scale"] = float(named.pop("scale").float())
    if split_rank := settings.pop("split_rank", None):
        settings["fixed_scale"] = float(named["alpha"].float()) / split_rank
    if settings.pop("alpha_is_cubed_scale", False):
        settings["fixed_scale"] = float(named["alpha"].float()) ** (1 / 3)
    return parse(named, **settings)


def _add_patch(
    found: Match,
    name: str,
    algorithm: Algorithm,
    shape: Sequence[int],
    module: str,
    keys: Mapping[str, str],
) -> None:
    if name in found.patches:
        found.skipped.extend(Skipped(key, f"{found.modules[name]} changes the same parameter, {name}") for key in keys.values())
        return
    problem = algorithm.check_shape(shape)
    if problem and name == FIRST_CONVOLUTION + ".weight" and shape[1] > PLAIN_CHANNELS:
        padded = Padded(inner=algorithm, channels=PLAIN_CHANNELS)
        if not padded.check_shape(shape):
            algorithm, problem = padded, None
    if problem:
        found.misfits.append((module, problem))
        found.skipped.extend(Skipped(key, problem) for key in keys.values())
        return
    found.patches[name] = algorithm
    found.modules[name] = module


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
