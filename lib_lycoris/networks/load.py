"""File + names of a base model -> Network."""
from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .. import models
from ..algorithms import Algorithm, parse
from ..algorithms.ia3 import PeftIA3
from ..algorithms.padded import Padded
from ..errors import ModelMismatchError, NetworkFormatError
from .keys import Keys, sort_out
from .network import Network, Skipped
from .reader import TensorFile, TensorInfo, open_file
from .settings import Source, read_source

SLICES = ("q", "k", "v", "mlp")
PLAIN_CHANNELS = 4  # what a latent has; inpainting and edit models add a mask or another latent behind it
FIRST_CONVOLUTION = "diffusion_model.input_blocks.0.0"


@dataclass
class _Found:
    patches: dict[str, Algorithm] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    misfits: list[tuple[str, str]] = field(default_factory=list)


def load(path: str | Path, base: models.BaseModel | None = None) -> Network:
    """Read a network file for a base model (default: the full-size one that the file is for).

    Raises NetworkFormatError for a file that cannot be understood, ModelMismatchError for one that is for another model; both name the
    file and say what to do.
    """
    file = open_file(path)
    keys = sort_out(file.tensors)
    family = models.detect_family(module_shapes(file, keys), file.metadata)
    base = base or _reference(file, keys, family)
    source = read_source(file.path, file.metadata, list(file.tensors))
    tensors = _read_finite(file)
    found = _Found(skipped=[Skipped(*item) for item in keys.unknown])
    for module, suffixes in keys.modules.items():
        _add_module(found, base, source, module, {suffix: tensors[key] for suffix, key in suffixes.items()}, suffixes)
    embeddings = {name: {part: tensors[key] for part, key in parts.items()} for name, parts in keys.embeddings.items()}
    _refuse_if_foreign(file, keys, found, base, family, bool(embeddings))
    return Network(
        name=file.path.stem, path=file.path, patches=found.patches, skipped=tuple(found.skipped), metadata=file.metadata,
        embeddings=embeddings, family=base.family, digest=_digest(file, tensors), modules=found.modules,
    )  # fmt: skip


def module_shapes(file: TensorFile, keys: Keys) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return module -> suffix -> shape, from the header alone."""
    return {m: {suffix: file.tensors[key].shape for suffix, key in s.items()} for m, s in keys.modules.items()}


def _reference(file: TensorFile, keys: Keys, family: str | None) -> models.BaseModel:
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


def _read_finite(file: TensorFile) -> dict[str, Tensor]:
    tensors = file.read(file.tensors)
    for key, tensor in tensors.items():
        values = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
        if tensor.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise NetworkFormatError(f"{file.path.name} is broken: {key} holds NaN or infinity; train or download it again")
    return tensors


def _add_module(found: _Found, base: models.BaseModel, source: Source, module: str, tensors: Mapping[str, Tensor], keys: Mapping[str, str]) -> None:
    layer, number = _whole(module)
    target = base.find(layer)
    if target is None:
        reason = f"{base.label} has no layer of this name"
        found.skipped.extend(Skipped(key, reason) for key in keys.values())
        return
    if number is not None:
        target = f"{target}[{SLICES[number]}]" if number < len(SLICES) else target
    try:
        patches, left = _parse(source, module, tensors)
    except NetworkFormatError as error:
        found.skipped.extend(Skipped(key, str(error)) for key in keys.values())
        return
    found.skipped.extend(Skipped(keys[s], "no part of the algorithm that the layer's other tensors make") for s in sorted(left))
    shape = slice_shape(base, target)
    weight = patches.get("weight")
    if isinstance(weight, PeftIA3) and weight.axis(shape) == 1:
        del patches["bias"]  # a scaled input leaves the bias alone
    for leaf, algorithm in patches.items():
        _add_patch(found, base, models.parameter(target, leaf), algorithm, shape if leaf == "weight" else shape[:1], module, keys)


def _parse(source: Source, module: str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Algorithm], set[str]]:
    settings = source.settings(module, {suffix: tuple(t.shape) for suffix, t in tensors.items()})
    named = dict(tensors)
    if "magnitude" in named:
        named["dora_scale"] = named.pop("magnitude")
    if "scale" in named:
        settings["fixed_scale"] = float(named.pop("scale").float())
    if split_rank := settings.pop("split_rank", None):
        settings["fixed_scale"] = float(named["alpha"].float()) / split_rank
    return parse(named, **settings)


def _add_patch(
    found: _Found, base: models.BaseModel, name: str, algorithm: Algorithm, shape: Sequence[int], module: str, keys: Mapping[str, str]
) -> None:
    if name in found.patches:
        found.skipped.extend(Skipped(key, f"{found.modules[name]} changes the same parameter, {name}") for key in keys.values())
        return
    problem = algorithm.misfit(shape)
    if problem and name == FIRST_CONVOLUTION + ".weight" and shape[1] > PLAIN_CHANNELS:
        padded = Padded(inner=algorithm, channels=PLAIN_CHANNELS)
        if not padded.misfit(shape):
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


def _refuse_if_foreign(
    file: TensorFile, keys: Keys, found: _Found, base: models.BaseModel, family: str | None, embeddings: bool
) -> None:
    """Raise when a file is for another model: shapes that do not fit are never applied in part across model families."""
    foreign = family is not None and family != base.family
    if not found.patches and not embeddings:
        if not keys.modules:
            raise NetworkFormatError(f"{file.path.name} holds no network: no key of it is a tensor of a known algorithm")
        known = models.reference(family).label if foreign and family else None
        reason = found.misfits[0][1] if found.misfits else f"{next(iter(found.skipped)).key}: {next(iter(found.skipped)).reason}"
        fits = f"it is for {known}" if known else reason
        raise ModelMismatchError(f"{file.path.name} fits no layer of the loaded model ({base.label}): {fits}")
    if found.misfits and foreign and family:
        module, problem = found.misfits[0]
        raise ModelMismatchError(
            f"{file.path.name} is for {models.reference(family).label}, but the model is {base.label}: {module}: {problem}"
        )


def _digest(file: TensorFile, tensors: Mapping[str, Tensor]) -> str:
    """Return a short hash of the content: of the header's table of tensors and of samples of their bytes."""
    content = hashlib.blake2b(digest_size=16)
    for key in sorted(tensors):
        info: TensorInfo = file.tensors[key]
        content.update(f"{key}:{info.dtype}:{info.shape};".encode())
        values = tensors[key].reshape(-1)
        step = max(1, values.numel() // 64)
        content.update(values[::step].to(torch.float64).numpy().tobytes())
    return content.hexdigest()
