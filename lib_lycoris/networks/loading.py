"""File + names of a base model -> Network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .. import models
from ..errors import ModelMismatchError, NetworkFormatError
from .keys import Keys, sort_out
from .matching import Match, match, reference_model
from .network import Network
from .reader import TensorFile, open_file

PIECE = 1 << 17  # values that are looked at together
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a value


def load(path: str | Path, base: models.BaseModel | None = None, prepared: torch.dtype | None = None) -> Network:
    """Read a network file for a base model (default: the full-size one that the file is for).

    prepared: the dtype that the model computes in, where the network is only to be applied: it is then kept in that precision at least, in
    the form that is the cheapest to apply, and not beside what the file stores.
    Raises NetworkFormatError for a file that cannot be understood, ModelMismatchError for one that is for another model; both name the
    file and say what to do.
    """
    file = open_file(path)
    keys = sort_out(file.tensors)
    family = models.detect_family(module_shapes(file, keys), file.metadata)
    usual = base is None
    base = base or reference_model(file, keys, family)
    tensors, digest = _read_finite(file, prepared)
    found = match(file, keys, tensors, base)
    embeddings = {name: {part: tensors[key] for part, key in parts.items()} for name, parts in keys.embeddings.items()}
    try:
        _refuse_if_foreign(file, keys, found, base, family, bool(embeddings))
    except ModelMismatchError as error:
        if usual and found.misfits:
            raise ModelMismatchError(
                f"{error} A network for a model of unusual size needs that model beside it (--base_model FILE)."
            ) from error
        raise
    patches = found.patches if prepared is None else {name: patch.prepared(prepared) for name, patch in found.patches.items()}
    return Network(
        name=file.path.stem, path=file.path, patches=patches, skipped=tuple(found.skipped), metadata=file.metadata,
        embeddings=embeddings, family=base.family, digest=digest, modules=found.modules,
    )  # fmt: skip


def module_shapes(file: TensorFile, keys: Keys) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return module -> suffix -> shape, from the header alone."""
    return {m: {suffix: file.tensors[key].shape for suffix, key in s.items()} for m, s in keys.modules.items()}


def _read_finite(file: TensorFile, wide: torch.dtype | None) -> tuple[dict[str, Tensor], str]:
    """Return all tensors, those of fewer bits than ``wide`` in that dtype, and a short hash of the content."""
    tensors: dict[str, Tensor] = {}
    stored: dict[str, Tensor] = {}
    for block in file.blocks(file.tensors):
        stored.update(block.tensors())
        if block.values.is_floating_point():
            if not _finite(block.values):
                key = next(key for key, tensor in block.tensors().items() if not _finite(tensor))
                raise NetworkFormatError(f"{file.path.name} is broken: {key} holds NaN or infinity; train or download it again")
            if wide is not None and torch.promote_types(_arithmetic(block.values.dtype), wide) == wide:
                block = block.to(wide)
        tensors.update(block.tensors())
    return tensors, _digest(stored)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a short hash of the content, whatever its order in the file: names, shapes, and the sum of each tensor's bits as integers."""
    keys = sorted(tensors)
    content = hashlib.blake2b(repr([(key, tensors[key].dtype, tuple(tensors[key].shape)) for key in keys]).encode(), digest_size=16)
    sums = [tensors[key].contiguous().reshape(-1).view(INTEGERS.get(tensors[key].element_size(), torch.uint8)).sum() for key in keys]
    content.update(torch.stack(sums).numpy().tobytes() if sums else b"")
    return content.hexdigest()


def _finite(values: Tensor) -> bool:
    """Tell whether there is neither NaN nor infinity, in pieces whose intermediates stay in the cache."""
    return all(bool(torch.isfinite(part.to(_arithmetic(part.dtype))).all()) for part in values.flatten().split(PIECE))


def _arithmetic(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype, or one that holds its values where torch does not compute in it: fp8."""
    return torch.float16 if dtype.is_floating_point and torch.finfo(dtype).bits == 8 else dtype


def _refuse_if_foreign(file: TensorFile, keys: Keys, found: Match, base: models.BaseModel, family: str | None, embeddings: bool) -> None:
    """Raise when a file is for another model: one whose layers do not all fit is never applied in part across model families."""
    foreign = models.reference(family).label if family is not None and family != base.family else None
    if not found.patches and not embeddings:
        if not keys.modules:
            raise NetworkFormatError(f"{file.path.name} holds no network: no key of it is a tensor of a known algorithm")
        if not foreign:
            first = found.skipped[0]
            reason = found.misfits[0][1] if found.misfits else f"{first.key}: {first.reason}"
            raise ModelMismatchError(f"{file.path.name} fits no layer of {base.label}: {reason}")
    unmatched = len(keys.modules) - len(set(found.modules.values()))
    if foreign and (found.misfits or 2 * unmatched > len(keys.modules)):
        detail = ": ".join(found.misfits[0]) if found.misfits else f"{unmatched} of its {len(keys.modules)} layers are not there"
        raise ModelMismatchError(f"{file.path.name} is for {foreign}, but the model is {base.label} ({detail})")
