"""A file's modules and the layers of a base model: which change makes which, and why the others make none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import permutations
from math import isclose

from torch import Tensor

from .. import models
from ..algorithms import Algorithm, parse
from ..algorithms.padded import Padded
from ..errors import ModelMismatchError, NetworkFormatError, naming, readable
from ..models.stored import layer_size
from ..records import dataclass
from .keys import SLICED, Keys, joined
from .limits import check_settings, check_tensors, same_numbers, single
from .network import Skipped
from .reading.table import MOST_AXES, TensorInfo
from .settings.source import SettingsSource

SLICES = ("q", "k", "v", "mlp")
KINDS = {"lora": "LORA", "loha": "LOHA", "lokr": "LOKR"}  # algorithms that other programs write too -> PEFT's type
ROUNDED = 0.01  # how much two scales may differ that are the same: alpha may be stored in bfloat16


@dataclass
class Match:
    """What of a file changes which parameter, and what does not."""

    patches: dict[str, Algorithm] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    mismatches: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Placement:
    """Which layers the modules of a file are for, as their names and shapes tell it; files with the same ones share it."""

    base: models.BaseModel
    keys: Keys
    targets: Mapping[str, tuple[str, ...]]  # module -> layers, or parts of them
    grouped: Mapping[str, Mapping[str, str]]  # module, those of one layer made one -> suffix -> key


def find_layers(shapes: Mapping[str, TensorInfo], keys: Keys, base: models.BaseModel) -> Placement:
    """Find the layers that each module of a file is for; what two of them say differently is noted in a copy of the keys."""
    keys = keys.copy()
    targets = {module: _targets(base, module) for module in keys.modules}
    targets.update(_of_one_encoder(shapes, keys, targets, base))
    grouped = joined(keys, (("+".join(targets[module]) or f"?{module}", module) for module in keys.modules))
    return Placement(base, keys, targets, grouped)


def match(placement: Placement, source: SettingsSource, tensors: Mapping[str, Tensor]) -> Match:
    """Make the change of each module of a file; refuses nothing, the rest is in ``skipped`` and ``mismatches``."""
    base, targets, grouped = placement.base, placement.targets, placement.grouped
    keys = placement.keys.copy()
    keys.compare(tensors)
    found = Match(skipped=[Skipped(*item) for item in keys.unknown])
    made: dict[str, dict[str, Algorithm]] = {}
    for module, suffixes in grouped.items():
        try:
            if doubt := keys.doubtful.get(module):
                raise NetworkFormatError(doubt)
            if not targets[module]:
                raise NetworkFormatError(_nowhere(source, base, module, {suffix: tensors[key] for suffix, key in suffixes.items()}))
            with naming(module):
                made[module] = _patches(source, base, module, targets[module], {suffix: tensors[key] for suffix, key in suffixes.items()})
        except ModelMismatchError as error:
            found.mismatches.append((module, str(error)))
            found.skipped.extend(Skipped(key, str(error)) for key in suffixes.values())
        except NetworkFormatError as error:
            found.skipped.extend(Skipped(key, str(error)) for key in suffixes.values())
    rivals = _rivals(base, made)
    for module, patches in made.items():
        if module in rivals:
            found.skipped.extend(Skipped(key, rivals[module]) for key in grouped[module].values())
        else:
            found.patches.update(patches)
            found.modules.update(dict.fromkeys(patches, module))
    return found


def _rivals(base: models.BaseModel, made: Mapping[str, Mapping[str, Algorithm]]) -> dict[str, str]:
    """Return module -> why it is left out: several of the file change the same rows, as a fused layer and its parts do."""
    owners: dict[str, list[tuple[str, str]]] = {}
    for module, patches in made.items():
        for name in patches:
            owners.setdefault(models.split_part(name)[0], []).append((module, name))
    found: dict[str, str] = {}
    for several in owners.values():
        for (module, name), (other, same) in permutations(several, 2):
            if module != other and _overlap(base, name, same):
                found.setdefault(module, f"{readable(other)} changes the same parameter, {same}; which of them is meant cannot be told")
    return found


def _overlap(base: models.BaseModel, one: str, other: str) -> bool:
    """Tell whether two names of a parameter, or of parts of it, mean any row both."""
    first, second = (models.rows(part, base.layers[module].shape) for module, _, part in map(models.split_parameter, (one, other)))
    return any(mine.start < its.stop and its.start < mine.stop for mine in first for its in second)


def own_model(
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]], found: models.Recognition, family: str | None = None
) -> models.BaseModel:
    """Return the model that a file is for: the full-size one of its family, else one of the layers that the file itself tells of.

    family: what the user says that the file is for. Raises UnknownFamilyError.
    """
    if family is not None:
        known = models.reference(family)  # one that is none is refused here
        return models.reference(family, found.variants.get(family) or models.variant_of(shapes, known.family))
    if found.family is not None:
        return models.reference(found.family, found.variants[found.family])
    return models.of_file(shapes)


def _whole(module: str) -> tuple[str, int | None]:
    """Split a module of kohya's sliced Flux rotations into its layer and the slice's number."""
    match = SLICED.fullmatch(module) if module.endswith("]") else None
    return (match["layer"], int(match["slice"])) if match else (module, None)


def _targets(base: models.BaseModel, module: str) -> tuple[str, ...]:
    layer, number = _whole(module)
    targets = base.targets(layer)
    sliced = len(targets) == 1 and number is not None and number < len(SLICES)
    return (f"{targets[0]}[{SLICES[number]}]",) if sliced and number is not None else targets


def _of_one_encoder(
    shapes: Mapping[str, TensorInfo], keys: Keys, targets: Mapping[str, tuple[str, ...]], base: models.BaseModel
) -> dict[str, tuple[str, ...]]:
    """Return the layers of modules that more than one text encoder has, where the sizes say that the file is for another than the first.

    PEFT names a layer as the encoder does that it was trained on, and what that is in a pipeline only the name of its folder says.
    """
    several = {module: found for module, one in targets.items() if len(one) == 1 and len(found := base.find_all(module)) > 1}
    hits: Counter[str] = Counter()
    for module, found in several.items():
        size = layer_size({suffix: shapes[key].shape for suffix, key in keys.modules[module].items()})
        for target in found:
            shape = slice_shape(base, target)
            fits = len(shape) > 1 and all(mine is None or mine == its for mine, its in zip(size, shape))
            hits[_component(base, target)] += fits
    best = hits.most_common(1)[0][0] if hits else ""  # of several the first, as a name without a component is meant
    return {m: (target,) for m, found in several.items() for target in found if _component(base, target) == best}


def _component(base: models.BaseModel, target: str) -> str:
    component = base.component_of(target)
    return component.key if component else ""


def _patches(
    source: SettingsSource, base: models.BaseModel, module: str, targets: Sequence[str], tensors: Mapping[str, Tensor]
) -> dict[str, Algorithm]:
    """Return parameter name -> change of one module. Raises NetworkFormatError, ModelMismatchError where one of them does not fit."""
    shapes = [slice_shape(base, target) for target in targets]
    shape = (sum(one[0] for one in shapes), *shapes[0][1:])
    patches = parse_module(source, module, tensors, shape)
    if "weight" in patches and (bias := patches["weight"].on_bias(shape)):
        patches.setdefault("bias", bias)
    found = {}
    for leaf, algorithm in patches.items():
        wanted = shape if leaf == "weight" else shape[:1]
        if problem := algorithm.check_shape(wanted):
            algorithm = _padded(base, targets[0], leaf, algorithm, wanted, problem)
        if len(targets) == 1:
            found[models.parameter(targets[0], leaf)] = algorithm
        else:
            found.update(_divided(algorithm, leaf, targets, [one[0] for one in shapes]))
    return found


def _padded(base: models.BaseModel, target: str, leaf: str, algorithm: Algorithm, shape: Sequence[int], problem: str) -> Algorithm:
    """Return a change of a layer with more inputs than the plain model's has: none of the others. Raises ModelMismatchError elsewhere."""
    channels = base.plain_inputs(target) if leaf == "weight" and len(shape) > 1 else None
    padded = Padded(inner=algorithm, channels=channels) if channels is not None and channels < shape[1] else None
    if padded is None or padded.check_shape(shape):
        raise ModelMismatchError(problem)
    return padded


def _nowhere(source: SettingsSource, base: models.BaseModel, module: str, tensors: Mapping[str, Tensor]) -> str:
    """Say why there is no layer for a module: of the file's own layers, which have its names, since nobody understands it."""
    if base.family != models.UNKNOWN.id:
        variants = models.FAMILIES[base.family].variants
        elsewhere = any(models.reference(base.family, variant).targets(module) for variant in variants)
        if elsewhere:
            return f"the model has no layer of this name, which other models of {base.label} have"
        return f"{base.label} has no layer of this name"
    try:
        parse_module(source, module, tensors)
    except NetworkFormatError as error:
        return str(error)
    return "its tensors do not tell the size of the layer; give the base model"


def _divided(algorithm: Algorithm, leaf: str, targets: Sequence[str], heights: Sequence[int]) -> dict[str, Algorithm]:
    """Return the rows of one change that each of several layers gets."""
    found, start = {}, 0
    for target, height in zip(targets, heights):
        part = algorithm.rows(slice(start, start + height))
        if part is None:
            raise NetworkFormatError(f"it changes {len(targets)} layers together, which {algorithm.label} cannot be divided into")
        found[models.parameter(target, leaf)] = part
        start += height
    return found


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
        named["dora_scale"] = _one_magnitude(named.pop("magnitude"), named.get("dora_scale"))
    if "reshape_weight" in named:
        _check_widened(named.pop("reshape_weight"), shape)
    if "scale" in named and set(named) == {"scale"} and named["scale"].dim() == 1:
        named = {"set_weight": named["scale"]}  # Flux' norms call their parameter so; BFL's control networks bring it whole
    elif "scale" in named:
        settings["fixed_scale"] = single(named["scale"], "scale")
    told = settings.get("fixed_scale")
    if split_rank := settings.pop("split_rank", None):
        settings["fixed_scale"] = single(named["alpha"], "alpha") / split_rank
    if settings.pop("alpha_is_cubed_scale", False):
        settings["fixed_scale"] = single(named["alpha"], "alpha") ** (1 / 3)
    check_settings(settings)
    kind, rank, magnitude = (settings.pop(f"told_{what}", None) for what in ("kind", "rank", "magnitude"))
    patches, left = parse(named, **settings)
    if left:
        raise NetworkFormatError(f"{', '.join(sorted(left))}: not used by the algorithm that the layer's other tensors make")
    if "weight" in patches:
        _check_config(patches["weight"], kind, rank, magnitude)
        _check_scale(patches["weight"], told, "scale" if "scale" in named else "adapter_config.json")
    return patches


def _check_config(algorithm: Algorithm, kind: str | None, rank: int | None, magnitude: bool | None) -> None:
    """Raise where PEFT's config is not of the network that the tensors are: of another method or rank, or with magnitudes (DoRA)."""
    direction, says = algorithm.direction, "adapter_config.json says that"
    if kind is not None and direction.name in KINDS and KINDS[direction.name] != kind:
        raise NetworkFormatError(f"{says} it is of the type {readable(kind, 40)}, but its tensors are those of {direction.name}")
    if rank is not None and algorithm.rank not in (None, rank):
        raise NetworkFormatError(f"{says} its rank is {rank}, but its tensors have {algorithm.rank}; it is of another network")
    if magnitude and direction.name in KINDS and not algorithm.magnitudes():
        raise NetworkFormatError(f"{says} it is a DoRA, but no magnitude came with its factors, which alone are another change")


def _check_scale(algorithm: Algorithm, scale: float | None, where: str) -> None:
    """Raise where what stands outside the factors says another scale than the alpha beside them."""
    stored = algorithm.direction.stored_scale
    if scale is not None and stored is not None and not isclose(scale, stored, rel_tol=ROUNDED):
        both = f"{where} says that it is multiplied by {scale:g}, but alpha and its rank say {stored:g}"
        raise NetworkFormatError(f"{both}; which is meant cannot be told")


def _one_magnitude(magnitude: Tensor, scale: Tensor | None) -> Tensor:
    """Return PEFT's magnitude. Raises where LyCORIS' beside it says other numbers, or is one of the inputs."""
    if scale is None or (scale.shape[0] == scale.numel() and same_numbers(scale, magnitude)):
        return magnitude
    raise NetworkFormatError(
        "dora_scale and lora_magnitude_vector are two magnitudes with different numbers; which is meant cannot be told"
    )


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
