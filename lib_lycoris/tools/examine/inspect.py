"""Network file -> everything that can be told about it; a broken or foreign file is described, not refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import Tensor

from ... import models
from ...algorithms import parse
from ...algorithms.base import Algorithm
from ...errors import ModelMismatchError, NetworkFormatError, naming, readable
from ...networks.hashes import model_hash, sha256, short
from ...networks.keys import Keys
from ...networks.limits import is_broken
from ...networks.loading import fits_by_shapes, module_shapes, no_network, open_keys
from ...networks.matching import Match, find_layers, match, own_model
from ...networks.reading.reader import TensorFile
from ...networks.reading.table import TensorInfo
from ...networks.settings.source import SettingsSource
from ...networks.tag_counts import top_tags
from ...plain_json import plain
from ...records import dataclass
from ...wording import counted
from ..files.checkpoints.checkpoint import layer_infos

TOP_TAGS = 20


@dataclass(frozen=True)
class Module:
    """One module of the file, for one parameter of the base model."""

    name: str  # as the file has it
    parameter: str | None  # canonical; None where no layer of the base model fits
    component: str | None  # unet, te1, te2, te3
    algorithm: str
    rank: int | None
    alpha: float | None
    dead: bool  # changes nothing whatever the base weight


@dataclass(frozen=True)
class Inspection:
    """What a network file is; counts are of modules unless they say otherwise."""

    name: str
    path: str
    bytes: int
    hashes: dict[str, str]  # sha256, autov2 (its first 10), model_hash (computed), stored (what the trainer wrote, if it did)
    family: str | None  # of the base model that it was made for, as far as the file tells
    family_reason: str
    candidates: tuple[str, ...]  # all families that it fits, the likeliest first
    compared_with: str
    compared_family: str
    fits: str  # what the base model that was given is called, where the file alone tells no family and its layers are those of that model
    algorithms: dict[str, int]
    ranks: dict[str, int]
    alphas: dict[str, int]
    dtypes: dict[str, int]  # of tensors
    keys: int
    matched_keys: int
    unmatched: tuple[tuple[str, str], ...]  # (key, reason)
    modules: tuple[Module, ...]
    embeddings: dict[str, dict[str, tuple[int, ...]]]  # word -> part -> shape
    not_finite: tuple[str, ...]  # keys with NaN or infinity
    dead: tuple[str, ...]  # modules that change nothing
    training: dict[str, str]  # what the metadata says, under names for people
    tags: tuple[tuple[str, int], ...]  # most frequent first
    metadata: dict[str, str]
    problems: tuple[str, ...]

    @property
    def layers_of(self) -> str | None:
        """The family whose layers the file changes: the one that it is for, else that of the model that it fits."""
        return self.family or (self.compared_family if self.fits else None)

    @property
    def usable(self) -> bool:
        """Tell whether the file can be applied to the model that it is for: nothing in it is broken, and something in it is known."""
        return not self.not_finite and bool(self.modules or self.embeddings)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return dict(plain(asdict(self)))


def inspect(path: str | Path, base: models.BaseModel | None = None, family: str | None = None, base_name: str = "") -> Inspection:
    """Describe a network file against a base model (default: the full-size one that it is for, or that of the family asked for).

    base_name: what the base model is called, where the file turns out to fit it (default: its family's name).
    Raises NetworkFormatError only for a file that holds no readable tensors, UnknownFamilyError.
    """
    with naming(path):
        return _inspect(path, base, family, base_name)


def _inspect(path: str | Path, base: models.BaseModel | None, family: str | None, base_name: str) -> Inspection:
    file, source, keys = open_keys(path)
    tensors = file.read(file.tensors)
    shapes = module_shapes(file, keys)
    told = models.recognise(shapes, file.metadata)
    compared = base or own_model(shapes, told, family)
    found = match(find_layers(file.tensors, keys, compared), source, tensors)
    unused = keys.unused_alphas()
    not_finite = tuple(key for key, tensor in tensors.items() if is_broken(tensor, key not in unused))
    modules = (*_fitting(compared, found), *_others(keys, tensors, found))
    unmatched = tuple((item.key, item.reason) for item in found.skipped)
    reason = told.reason if keys.modules else "it holds no network"
    open_question = base is not None and told.family is None and no_network(file, source, keys) is None
    fits = base is not None and open_question and fits_by_shapes(file, source, keys, told, base)
    return Inspection(
        name=Path(path).resolve().name if Path(path).is_dir() else file.path.stem, path=str(file.path),
        bytes=file.path.stat().st_size, hashes=_hashes(file),
        family=told.family, family_reason=reason, candidates=told.candidates, compared_with=compared.label,
        compared_family=compared.family, fits=(base_name or compared.label) if fits else "",
        algorithms=_counts(m.algorithm for m in modules), ranks=_counts(m.rank for m in modules), alphas=_counts(m.alpha for m in modules),
        dtypes=_counts(info.dtype for info in file.tensors.values()), keys=len(file.tensors),
        matched_keys=len(file.tensors) - len({key for key, _ in unmatched}), unmatched=unmatched, modules=modules,
        embeddings={word: {part: file.tensors[key].shape for part, key in parts.items()} for word, parts in keys.embeddings.items()},
        not_finite=not_finite, dead=tuple(dict.fromkeys(module.name for module in modules if module.dead)),
        training=_training(file.metadata), tags=tuple(top_tags(file.metadata, TOP_TAGS)), metadata=dict(file.metadata),
        problems=tuple(_problems(file, source, told.family, compared, found, keys, not_finite)),
    )  # fmt: skip


def _fitting(base: models.BaseModel, found: Match) -> Iterator[Module]:
    for name, algorithm in found.patches.items():
        component = base.component_of(name)
        yield _module(found.modules[name], name, component.key if component else None, algorithm)


def _others(keys: Keys, tensors: Mapping[str, Tensor], found: Match) -> Iterator[Module]:
    """Yield the modules that fit no layer of the base model, as far as an algorithm is known in them."""
    fitting = set(found.modules.values())
    for name, suffixes in keys.modules.items():
        if name not in fitting:
            try:
                changes, _ = parse({suffix: tensors[key] for suffix, key in suffixes.items()})
            except NetworkFormatError:
                continue  # listed among the unmatched keys, with this reason
            yield from (_module(name, None, None, algorithm) for algorithm in changes.values())


def _module(name: str, parameter: str | None, component: str | None, algorithm: Algorithm) -> Module:
    alpha = algorithm.values().get("alpha")
    alpha = alpha if isinstance(alpha, float) else None
    return Module(name, parameter, component, algorithm.label, algorithm.rank, alpha, algorithm.is_zero)


def _problems(
    file: TensorFile,
    source: SettingsSource,
    family: str | None,
    base: models.BaseModel,
    found: Match,
    keys: Keys,
    not_finite: tuple[str, ...],
) -> list[str]:
    told = []
    reason = no_network(file, source, keys)
    if reason:
        label = base_model_in(file.tensors)
        told.append(f"the file {reason}{f'; its layers are those of {label}' if label else ''}")
    if not_finite:
        many = f"NaN or infinity (or numbers as large) in {counted(len(not_finite), 'tensor')}, first {readable(not_finite[0])}"
        told.append(f"{many}: the file is broken and will not be applied")
    if keys.modules and not found.patches:
        told.append(f"nothing of the file fits {base.label}: {found.skipped[0].reason if found.skipped else 'no layer has its names'}")
    elif found.skipped and not reason:
        first = found.skipped[0]
        told.append(f"{counted(len(found.skipped), 'key')} without effect on {base.label}, first {readable(first.key)}: {first.reason}")
    if family is not None and family != base.family:
        told.append(f"the file was made for {models.FAMILIES[family].label}, not for {base.label}")
    dead = sum(algorithm.is_zero for algorithm in found.patches.values())
    if dead and dead == len(found.patches):
        told.append("every module is dead: the file changes nothing at all")
    return told


def base_model_in(tensors: Mapping[str, TensorInfo]) -> str | None:
    """Return the label of the base model that a checkpoint, or a part of one, holds; None where its layers do not tell it."""
    try:
        return models.from_live(layer_infos(tensors)).base.label
    except ModelMismatchError:
        return None


def _hashes(file: TensorFile) -> dict[str, str]:
    whole = sha256(file.path)
    found = {"sha256": whole, "autov2": whole[:10], "model_hash": model_hash(file.path)}
    found["short"] = short(file.metadata.get("sshs_model_hash") or found["model_hash"])
    stored = file.metadata.get("sshs_model_hash")
    return {**found, **({"stored": stored} if stored else {})}


def _counts(values: Any) -> dict[str, int]:
    counts = Counter(f"{value:g}" if isinstance(value, float) else str(value) for value in values if value is not None)
    return dict(counts.most_common())


NAMES: dict[str, tuple[str, ...]] = {  # a name for people: metadata keys, the first that says something wins
    "title": ("modelspec.title", "ss_output_name"),
    "trainer module": ("ss_network_module",),
    "arguments": ("ss_network_args",),
    "rank": ("ss_network_dim",),
    "alpha": ("ss_network_alpha",),
    "base model": ("ss_sd_model_name", "modelspec.architecture"),
    "base version": ("ss_base_model_version",),
    "resolution": ("modelspec.resolution", "ss_resolution"),
    "images": ("ss_num_train_images",),
    "epochs": ("ss_epoch", "ss_num_epochs"),
    "steps": ("ss_steps", "ss_max_train_steps"),
    "learning rate": ("ss_learning_rate",),
    "optimizer": ("ss_optimizer",),
    "finished": ("modelspec.date", "ss_training_finished_at", "ss_training_started_at"),
    "trigger": ("modelspec.trigger_phrase", "ssmd_keywords"),
    "author": ("modelspec.author", "ssmd_author"),
    "license": ("modelspec.license",),
    "comment": ("ss_training_comment", "modelspec.description", "ssmd_description"),
}


def _training(metadata: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, keys in NAMES.items():
        value = next((metadata[key] for key in keys if metadata.get(key) not in (None, "", "None")), None)
        if value is not None:
            found[name] = _date(value) if name == "finished" else value
    return found


def _date(text: str) -> str:
    try:
        return datetime.fromtimestamp(float(text), timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return text  # modelspec writes a date for people already
