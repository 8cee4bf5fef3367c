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
from .reader import TensorFile, TensorInfo, open_file


def load(path: str | Path, base: models.BaseModel | None = None) -> Network:
    """Read a network file for a base model (default: the full-size one that the file is for).

    Raises NetworkFormatError for a file that cannot be understood, ModelMismatchError for one that is for another model; both name the
    file and say what to do.
    """
    file = open_file(path)
    keys = sort_out(file.tensors)
    family = models.detect_family(module_shapes(file, keys), file.metadata)
    usual = base is None
    base = base or reference_model(file, keys, family)
    tensors = _read_finite(file)
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
    return Network(
        name=file.path.stem, path=file.path, patches=found.patches, skipped=tuple(found.skipped), metadata=file.metadata,
        embeddings=embeddings, family=base.family, digest=_digest(file, tensors), modules=found.modules,
    )  # fmt: skip


def module_shapes(file: TensorFile, keys: Keys) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return module -> suffix -> shape, from the header alone."""
    return {m: {suffix: file.tensors[key].shape for suffix, key in s.items()} for m, s in keys.modules.items()}


def _read_finite(file: TensorFile) -> dict[str, Tensor]:
    tensors = file.read(file.tensors)
    for key, tensor in tensors.items():
        values = tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor
        if tensor.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise NetworkFormatError(f"{file.path.name} is broken: {key} holds NaN or infinity; train or download it again")
    return tensors


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
