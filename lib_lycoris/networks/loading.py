"""File + names of a base model -> Network."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from sys import float_info

import torch
from torch import Tensor

from .. import models
from ..algorithms import is_algorithm
from ..errors import ModelMismatchError, NetworkFormatError, naming, readable
from .keys import NO_SUFFIX, Keys, sort_out
from .limits import LARGEST_FACTOR, arithmetic, sound
from .matching import Match, find_layers, match, own_model
from .network import Network
from .reading.foreign import tensors_name
from .reading.reader import Block, TensorFile, open_file
from .reading.table import TensorInfo
from .settings.refused import refusal
from .settings.source import SettingsSource, read_source

SortOut = Callable[[Mapping[str, TensorInfo], Sequence[str]], Keys]
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a value


def load(
    path: str | Path, base: models.BaseModel | None = None, prepared: torch.dtype | None = None, *, other_family: bool = False,
    family: str | None = None,
) -> Network:  # fmt: skip
    """Read a network file for a base model (default: the full-size one that the file is for).

    prepared: the dtype that the model computes in, where the network is only to be applied: it is then kept in that precision at least, in
    the form that is the cheapest to apply, and not beside what the file stores.
    other_family: put it on the layers that fit even where the file is for another family of base models.
    family: the family that it is to be read for, such as "chroma" where its layers fit several; it is put on the layers that fit.
    Raises NetworkFormatError for a file that cannot be understood, ModelMismatchError for one that is for another model; both name the
    file and say what to do.
    """
    with naming(path):
        network = _load(Path(path), _asked_for(base, family), prepared, other_family or family is not None, family)
        return replace(network, name=Path(path).name) if Path(path).is_dir() else network


def _asked_for(base: models.BaseModel | None, family: str | None) -> models.BaseModel | None:
    """Return the base model that is at hand. Raises ModelMismatchError where it is of another family than the user says."""
    if base is not None and family is not None and base.family != family:
        wanted = models.reference(family).label
        raise ModelMismatchError(f"the model is {base.label}, but `family` asks for {wanted}; leave it out, or give such a model")
    return base


def _load(
    path: Path, base: models.BaseModel | None, prepared: torch.dtype | None, other_family: bool, family: str | None = None
) -> Network:
    file, source, keys = open_network(path)
    shapes = module_shapes(file, keys)
    told = models.recognise(shapes, file.metadata)
    if base is not None and keys.modules and not other_family:
        _refuse_if_foreign(file, keys, told, base)
    chosen = base is not None or family is not None
    base = base or own_model(shapes, told, family)
    tensors, digest = _read_finite(file, keys.unused_alphas(), prepared)
    found = match(find_layers(file.tensors, keys, base), source, tensors)
    embeddings = {name: {part: tensors[key] for part, key in parts.items()} for name, parts in keys.embeddings.items()}
    if not embeddings:
        _refuse_if_nothing_fits(file, keys, found, base)
    patches = found.patches if prepared is None else {name: patch.prepared(prepared) for name, patch in found.patches.items()}
    return Network(
        name=file.path.stem, path=file.path, patches=patches, skipped=tuple(found.skipped), metadata=file.metadata,
        embeddings=embeddings, family=base.family, digest=digest, modules=found.modules, base=base, layers=len(keys.modules),
        candidates=told.candidates, chosen=chosen,
    )  # fmt: skip


def fits(path: str | Path, base: models.BaseModel) -> bool:
    """Tell whether a network's layers are those of a base model; next to nothing of the file is read. Raises NetworkFormatError."""
    file, source, keys = open_network(path)
    return fits_by_shapes(file, source, keys, models.recognise(module_shapes(file, keys), file.metadata), base)


def fits_by_shapes(file: TensorFile, source: SettingsSource, keys: Keys, told: models.Recognition, base: models.BaseModel) -> bool:
    """Tell whether an opened network is for a base model: by names, shapes and single numbers, which can be switches."""
    try:
        if keys.modules:  # else it holds words alone
            _refuse_if_foreign(file, keys, told, base)
            single = {key for key, info in file.tensors.items() if prod(info.shape) == 1}
            blank = {key: torch.ones(()).expand(info.shape) for key, info in file.tensors.items() if key not in single}
            found = match(find_layers(file.tensors, keys, base), source, {**file.read(single), **blank})
            _refuse_if_nothing_fits(file, keys, found, base)
    except ModelMismatchError:
        return False
    return True


def family_of_all(paths: Sequence[str | Path]) -> str | None:
    """Return the family of base models that several files fit where each alone would be read for another; None where there is none.

    The commonest of those, whatever the order of the files. Raises NetworkFormatError.
    """
    told = []
    for path in paths if len(paths) > 1 else ():
        with naming(path):
            file, _, keys = open_network(path)
            told.append(models.recognise(module_shapes(file, keys), file.metadata))
    if len({one.family for one in told}) < 2:
        return None
    return next((family for family in models.FAMILIES if all(family in one.candidates for one in told)), None)


def open_network(path: str | Path) -> tuple[TensorFile, SettingsSource, Keys]:
    """Open a network file: its header, what it says outside its tensors, and its keys. Raises NetworkFormatError for one that is none."""
    file, source, keys = open_keys(path)
    if reason := no_network(file, source, keys):
        raise NetworkFormatError(f"{file.path.name} {reason}")
    return file, source, keys


def open_keys(path: str | Path, sort: SortOut = sort_out) -> tuple[TensorFile, SettingsSource, Keys]:
    """Open any file of tensors as if it were a network."""
    file = open_file(path)
    with naming(file.path):
        source = read_source(file.path, file.metadata, list(file.tensors))
        try:
            return file, source, sort(file.tensors, source.saved)
        except NetworkFormatError as error:
            raise NetworkFormatError(f"{file.path.name}: {error}") from error


def no_network(file: TensorFile, source: SettingsSource, keys: Keys) -> str | None:
    """Say what a file is that holds no network, or one that is refused, in words that follow its name; None for a network."""
    if reason := refusal(file.tensors, source.configs, source.arguments):
        return reason
    if any(is_algorithm(suffixes) for suffixes in keys.modules.values()) or keys.embeddings:
        return None
    if kind := tensors_name(file.tensors) or file.kind:
        return f"is {kind}, not a network"
    if not file.tensors:
        return "holds no tensors at all"
    return f"holds no network: no known algorithm has tensors such as {readable(next(iter(file.tensors)))}"


def module_shapes(file: TensorFile, keys: Keys) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return module -> suffix -> shape, from the header alone."""
    return {m: {suffix: file.tensors[key].shape for suffix, key in s.items()} for m, s in keys.modules.items()}


def _read_finite(file: TensorFile, unused: frozenset[str], wide: torch.dtype | None) -> tuple[dict[str, Tensor], str]:
    """Return all tensors, those of fewer bits than ``wide`` in that dtype, and a short hash of the content.

    unused: keys of numbers that mean nothing, and may be anything.
    """
    tensors: dict[str, Tensor] = {}
    stored = file.blocks(file.tensors)
    for block in stored:
        if not sound(block.values):
            refuse_unsound(file.path.name, {key: tensor for key, tensor in block.tensors().items() if key not in unused})
        tensors.update((block.to(wide) if wide is not None and _is_wider(wide, block.values.dtype) else block).tensors())
    return tensors, _digest(stored)


def _is_wider(wide: torch.dtype, dtype: torch.dtype) -> bool:
    """Tell whether a dtype holds all values of another one, which is not of integers."""
    return dtype.is_floating_point and torch.promote_types(arithmetic(dtype), wide) == wide


def _digest(blocks: Sequence[Block]) -> str:
    """Return a short hash of the content, whatever its order in the file: names, shapes, and the sum of each tensor's bits as integers."""
    sums = {key: total for block in blocks for key, total in zip(block.keys, _sums(block))}
    named = sorted((key, block.values.dtype, shape) for block in blocks for key, shape in zip(block.keys, block.shapes))
    content = hashlib.blake2b(repr(named).encode(), digest_size=16)
    content.update(array("q", [sums[key] for key, *_ in named]).tobytes())
    return content.hexdigest()


def _sums(block: Block) -> Iterator[int]:
    """Yield the sum of the bits of each tensor of a block; NumPy's sum of integers of 32 bits takes a quarter of PyTorch's time."""
    bits = block.values.contiguous().view(INTEGERS.get(block.values.element_size(), torch.uint8)).numpy()
    each = bits.size // max(block.values.numel(), 1)  # integers of a value
    start = 0
    for shape in block.shapes:
        end = start + each * prod(shape)
        yield int(bits[start:end].sum(dtype="int64"))
        start = end


def refuse_unsound(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise for the tensor that is broken; single numbers have a limit of their own, see :mod:`.limits`."""
    for key, tensor in tensors.items():
        if not sound(tensor, float_info.max):
            raise NetworkFormatError(f"{name} is broken: {readable(key)} holds NaN or infinity; train or download it again")
        if tensor.numel() > 1 and not sound(tensor):
            raise NetworkFormatError(
                f"{name} is broken: {readable(key)} holds numbers beyond {LARGEST_FACTOR:.0e}, which no weight is; download it again"
            )


def _refuse_if_foreign(file: TensorFile, keys: Keys, told: models.Recognition, base: models.BaseModel) -> None:
    """Raise when a file is for another family of base models: it is never applied because some names happen to fit."""
    if base.family in told.candidates or (not told.candidates and base.family in (*told.alike, models.UNKNOWN.id)):
        return
    fitting = sum(bool(base.targets(module.partition("[")[0])) for module in keys.modules)
    count = f"{fitting} of its {len(keys.modules)} layers have names of that model"
    if told.candidates:
        labels = " or ".join(models.FAMILIES[family].label for family in told.candidates)
        raise ModelMismatchError(f"{file.path.name} is for {labels}, but the model is {base.label} ({count})")
    if len(keys.modules) - fitting > max(models.TOLERATED * len(keys.modules), 1):
        raise ModelMismatchError(f"{file.path.name} is not for {base.label} ({count}): {told.reason}")


def _refuse_if_nothing_fits(file: TensorFile, keys: Keys, found: Match, base: models.BaseModel) -> None:
    """Raise when no layer can be changed, or most have the names of the model's layers and not their shapes."""
    if not found.patches:
        first = next((item for item in found.skipped if item.reason != NO_SUFFIX), found.skipped[0])
        reason = found.mismatches[0][1] if found.mismatches else f"{readable(first.key)}: {first.reason}"
        raise ModelMismatchError(f"{file.path.name} fits no layer of {base.label}: {reason}")
    if 2 * len(found.mismatches) > len(keys.modules):
        detail = ": ".join(found.mismatches[0])
        raise ModelMismatchError(
            f"{file.path.name} has {len(found.mismatches)} of {len(keys.modules)} layers in other sizes than {base.label} ({detail})"
        )
