"""Network files of which the headers and a few layers are read: enough to tell which of many are alike.

The layers that are looked at are those whose names have the smallest hashes, so that files with the same layers show the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from math import prod
from pathlib import Path

from ...algorithms import Algorithm
from ...errors import LycorisError, NetworkFormatError, ToolError, naming
from ...models import FAMILIES, BaseModel, recognise, split_parameter, with_part
from ...networks.keys import Keys, sort_out
from ...networks.loading import fits_by_shapes, module_shapes, no_network, open_keys, open_network
from ...networks.matching import Placement, find_layers, match, own_model, slice_shape
from ...networks.reading.folder import EXTENSIONS, files_below
from ...networks.reading.reader import Block, TensorFile
from ...networks.reading.table import TensorInfo
from ...networks.settings.source import SettingsSource
from ...records import dataclass
from ..files.checkpoints.stream import as_bytes

LOOKED_AT = 8  # layers of a file
BEGINNING = 64  # bytes of a tensor by which files are told apart before they are read whole
NAMED = ("ss_sd_model_name", "ss_sd_model_hash", "modelspec.architecture", "ss_base_model_version")  # what says the base model


@dataclass(frozen=True, eq=False)
class Layout:
    """What a table of tensors tells; files with the same names and shapes share one."""

    base: BaseModel
    label: str  # of the base model, for people
    modules: Mapping[str, tuple[str, ...]]  # layer -> modules of the file


@dataclass(frozen=True, eq=False)
class Change:
    """A network's change of one parameter."""

    algorithm: Algorithm
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SampledNetwork:
    """One file, as far as it was read."""

    path: Path
    bytes: int
    layout: Layout
    said: Mapping[str, str]  # of NAMED
    changes: Mapping[str, Change]  # parameter -> change, of the layers that were looked at
    content: str  # hash of the beginnings of their tensors, with their keys: equal files have the same
    read: int  # bytes

    @property
    def label(self) -> str:
        """The base model, for people."""
        return self.layout.label


Layers = Callable[[Sequence[str]], Iterable[str]]  # the layers of a file that are looked at, of all that it has


def by_hash(layers: Sequence[str]) -> list[str]:
    """Return the layers whose names have the smallest hashes."""
    return sorted(layers, key=name_hash)[:LOOKED_AT]


def name_hash(name: str) -> bytes:
    """Return the hash by which layers are ordered."""
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


@dataclass(frozen=True, eq=False)
class Sample:
    """The layers of a layout that are looked at."""

    placement: Placement
    keys: tuple[str, ...]  # of their tensors, sorted
    mark: bytes  # keys, dtypes and shapes
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a parameter that a layer's change is of."""
        if name not in self._shapes:
            self._shapes[name] = _shape(self.placement.base, name)
        return self._shapes[name]


class SampledReader:
    """Reads files, and works out each table of tensors once: a library's files have few different ones.

    at_hand: a base model that the files may be for, with its name: it tells of those whose own header does not, or that have its sizes.
    """

    def __init__(self, at_hand: tuple[BaseModel, str] | None = None) -> None:
        self._at_hand = at_hand
        self._keys: dict[int, Keys] = {}  # by the hash of a table, which would take as much memory again
        self._reasons: dict[tuple[object, ...], str | None] = {}
        self._layouts: dict[tuple[object, ...], Layout] = {}
        self._samples: dict[tuple[Layout, Layers], Sample] = {}

    def read(self, path: Path, layers: Layers = by_hash) -> SampledNetwork:
        """Return a file with its layers that are looked at. Raises NetworkFormatError for one that is no network."""
        with naming(path):
            return self._read(path, layers)

    def _read(self, path: Path, layers: Layers) -> SampledNetwork:
        file, source, keys = open_keys(path, self._sort_out)
        self._refuse_others(file, source, keys)
        said = {key: file.metadata[key] for key in NAMED if file.metadata.get(key)}
        layout = self._layout(file, source, keys, said)
        sample = self._sample(file, keys, layout, layers)
        blocks = file.blocks(sample.keys)
        found = match(sample.placement, source, {key: tensor for block in blocks for key, tensor in block.tensors().items()})
        changes = {name: Change(algorithm, sample.shape(name)) for name, algorithm in found.patches.items()}
        size = len(file.header) + sum(block.values.nbytes for block in blocks)
        content = _content(sample.mark, sample.keys, blocks, BEGINNING)
        return SampledNetwork(file.path, file.path.stat().st_size, layout, said, changes, content, size)

    def _sort_out(self, tensors: Mapping[str, TensorInfo], saved: Sequence[str]) -> Keys:
        table = hash((*tensors, *(info.shape for info in tensors.values()), *saved))
        if table not in self._keys:
            self._keys[table] = sort_out(tensors, saved)
        return self._keys[table]

    def _refuse_others(self, file: TensorFile, source: SettingsSource, keys: Keys) -> None:
        mark = (id(keys), repr(source.configs), repr(source.arguments), file.kind)  # the keys are kept, so that no others get their id
        if mark not in self._reasons:
            self._reasons[mark] = no_network(file, source, keys)
        if reason := self._reasons[mark]:
            raise NetworkFormatError(f"{file.path.name} {reason}")

    def _layout(self, file: TensorFile, source: SettingsSource, keys: Keys, said: Mapping[str, str]) -> Layout:
        mark = (id(keys), *said.items())
        if mark not in self._layouts:
            shapes = module_shapes(file, keys)
            told = recognise(shapes, file.metadata)
            base, name = own_model(shapes, told), ""
            if self._at_hand is not None and fits_by_shapes(file, source, keys, told, self._at_hand[0]):
                base, name = self._at_hand
            label = f"fits {name}" if name and told.family is None else FAMILIES[base.family].label
            self._layouts[mark] = Layout(base, label, _modules(base, keys.modules))
        return self._layouts[mark]

    def _sample(self, file: TensorFile, keys: Keys, layout: Layout, layers: Layers) -> Sample:
        if (layout, layers) not in self._samples:
            wanted = {module for layer in layers(list(layout.modules)) for module in layout.modules.get(layer, ())}
            modules = {module: suffixes for module, suffixes in keys.modules.items() if module in wanted}
            twins = [twin for twin in keys.twins if twin[0] in wanted]
            some = replace(keys, modules=modules, unknown=[], twins=twins)
            names = {key for suffixes in modules.values() for key in suffixes.values()} | {key for _, key, _ in twins}
            placement = find_layers(file.tensors, some, layout.base)
            self._samples[layout, layers] = Sample(placement, tuple(sorted(names)), _mark(file, sorted(names)))
        return self._samples[layout, layers]


def files_of(library: Iterable[Path]) -> list[Path]:
    """Return the network files of a list of files and folders, those of subfolders too. Raises ToolError where there is none."""
    found: dict[Path, None] = {}
    for place in library:
        if not place.exists():
            raise ToolError(f"there is no {place}")
        named = [place] if place.is_file() and place.suffix.lower() in EXTENSIONS and not place.name.startswith(".") else []
        found.update(dict.fromkeys(files_below(place) if place.is_dir() else named))
    if not found:
        raise ToolError(f"{', '.join(map(str, library))} holds no network file ({', '.join(EXTENSIONS)})")
    return list(found)


def sampled_networks(
    paths: Sequence[Path], sampler: SampledReader, layers: Layers = by_hash, done: Callable[[Path], None] = lambda path: None
) -> Iterator[SampledNetwork | tuple[Path, str]]:
    """Yield each file as far as it is read, or why it cannot be."""
    for path in paths:
        try:
            yield sampler.read(path, layers)
        except (LycorisError, OSError) as error:  # one file of many: it is listed, the others are looked at
            yield path, str(error)
        done(path)


def content_hash(path: Path) -> str:
    """Return a hash of all tensors with their keys, whatever their order and the metadata are."""
    file, _, _ = open_network(path)
    keys = sorted(file.tensors)
    return _content(_mark(file, keys), keys, file.blocks(keys))


def _mark(file: TensorFile, keys: Sequence[str]) -> bytes:
    return repr([(key, file.tensors[key].dtype, file.tensors[key].shape) for key in keys]).encode()


def _content(mark: bytes, keys: Sequence[str], blocks: Iterable[Block], most: int | None = None) -> str:
    """Return a hash of tensors with their keys; most: bytes of each that count, None for all."""
    parts: dict[str, memoryview] = {}
    for block in blocks:
        raw, start, size = as_bytes(block.values), 0, block.values.element_size()
        for key, shape in zip(block.keys, block.shapes):
            end = start + prod(shape) * size
            parts[key], start = raw[start : end if most is None else min(end, start + most)], end
    digest = hashlib.blake2b(mark, digest_size=16)
    for key in keys:
        digest.update(parts[key])
    return digest.hexdigest()


def _modules(base: BaseModel, modules: Iterable[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for module in modules:
        for target in base.targets(module.partition("[")[0]):
            layer = target.partition("[")[0]
            found[layer] = (*found.get(layer, ()), module)
    return found


def _shape(base: BaseModel, name: str) -> tuple[int, ...]:
    module, leaf, part = split_parameter(name)
    shape = slice_shape(base, with_part(module, part))
    return shape if leaf == "weight" else shape[:1]
