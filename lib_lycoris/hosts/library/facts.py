"""What a network file's header tells: names from its metadata alone, kind and base model from its table of tensors.

The metadata is read without the table where it comes first, as nearly all writers put it: that is a tenth of the bytes, and of the work.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from ...errors import LycorisError, naming
from ...models.families import FAMILIES
from ...networks.hashes import short
from ...networks.reading import header
from ...networks.tag_counts import top_tags
from ...plain_json import parse_json
from ...records import dataclass

SUFFIX = ".safetensors"
# what the webui's loader writes as "sd version" where it knows the family, and the family's short name for the others
VERSIONS: Mapping[str, str] = {family.id: family.short for family in FAMILIES.values()}
UNKNOWN = "Unknown"
TITLES: Mapping[str, str] = {
    "lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "glora": "GLoRA", "ia3": "(IA)³", "oft": "OFT", "boft": "BOFT",
    "full": "Full", "norm": "Norm", "dora": "DoRA", "t-lora": "T-LoRA",
}  # fmt: skip
COVERS = "ssmd_cover_images"
LISTED = ("modelspec.title", "modelspec.author", "modelspec.tags", "modelspec.trigger_phrase", "ss_sd_model_name")
LONGEST = 300  # characters of one entry of LISTED that are kept
KEPT_TAGS = 40
_FAMILY = ("modelspec.architecture", "ss_base_model_version", "ss_v2")  # entries that can decide the family


@dataclass(frozen=True)
class NetworkFacts:
    """What is known of one file; all empty for one that cannot be read, or that is no safetensors file."""

    stamp: tuple[int, int] = (0, 0)  # time of the last change in ns, and bytes: the facts hold as long as the file has these
    alias: str = ""  # the name that its trainer gave the network
    stored_hash: str = ""  # the first 12 characters of the hash that its trainer wrote into the file
    listed: dict[str, str] = field(default_factory=dict)  # the entries of LISTED, cut
    entries: int = 0  # of the metadata
    cover: bool = False  # whether an image is in the file
    described: bool = False  # whether what follows is known yet
    version: str = UNKNOWN  # one of VERSIONS' values
    algorithms: dict[str, int] = field(default_factory=dict)  # title -> number of modules, most frequent first
    tags: tuple[tuple[str, int], ...] = ()  # the most frequent caption tags
    broken: str = ""  # why the file cannot be read

    @property
    def label(self) -> str:
        """The algorithm and family in a few words, such as `LoKr, SD1`."""
        kinds = list(self.algorithms)[:2]
        known = [self.version] if self.version != UNKNOWN else []
        return "cannot be read" if self.broken else ", ".join([*kinds, *known])


def read_names(path: str | Path) -> NetworkFacts:
    """Read what a file is called; one that cannot be read has no second name, and says why when it is described."""
    stamp = stamp_of(path)
    if not str(path).lower().endswith(SUFFIX):
        return NetworkFacts(stamp, described=True)  # a pickle would have to be opened whole
    try:
        metadata = read_metadata(path)
    except (OSError, LycorisError):
        return NetworkFacts(stamp)
    return NetworkFacts(
        stamp, alias=metadata.get("ss_output_name", "").strip(), stored_hash=short(metadata.get("sshs_model_hash", "")),
        listed={key: metadata[key][:LONGEST] for key in LISTED if metadata.get(key)}, entries=len(metadata), cover=_has_cover(metadata),
    )  # fmt: skip


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of a safetensors file. Raises OSError or NetworkFormatError for a file that is none."""
    return header.read_metadata(Path(path))


def stamp_of(path: str | Path) -> tuple[int, int]:
    """Return what changes when a file is written: its time in ns, and its bytes. Raises OSError."""
    info = os.stat(path)
    return info.st_mtime_ns, info.st_size


class Describer:
    """Tells kinds and base models; files whose tables of tensors are the same to the byte are worked out once."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[str, dict[str, int]]] = {}

    def __call__(self, path: str | Path, names: NetworkFacts) -> NetworkFacts:
        """Complete the facts of a file whose names are known. Raises OSError for a file that is gone."""
        if names.described:
            return names
        os.stat(path)
        try:
            with naming(path):
                metadata, key = _read_table(path)
                version, algorithms = self._known[key] if key in self._known else self._known.setdefault(key, _kinds(Path(path)))
        except LycorisError as error:  # it costs its own line in the list, not the list
            return replace(names, described=True, broken=str(error))
        return replace(names, described=True, version=version, algorithms=dict(algorithms), tags=tuple(top_tags(metadata, KEPT_TAGS)))


def _read_table(path: str | Path) -> tuple[Mapping[str, Any], object]:
    """Return a file's metadata, and what decides its kind and base model: its table of tensors, hashed, and some of the metadata."""
    raw, room = header.raw_header(Path(path))
    metadata: Mapping[str, Any]
    metadata, end = header.leading_metadata(raw) or (header.parse(raw, Path(path).name).metadata, 0)
    table = memoryview(raw)[end : len(raw.rstrip())]  # writers fill up with spaces, as many as the metadata makes it
    digest = hashlib.blake2b(table, digest_size=16).digest()
    return metadata, (digest, room, *(str(metadata.get(key)) for key in _FAMILY))


def _kinds(path: Path) -> tuple[str, dict[str, int]]:
    from ...models import detect_family  # with torch: names alone do not need it
    from ...networks.loading import module_shapes, open_network

    file, _, keys = open_network(path)
    shapes = module_shapes(file, keys)
    return VERSIONS.get(detect_family(shapes, file.metadata) or "", UNKNOWN), _algorithms(shapes)


def _algorithms(modules: Mapping[str, Mapping[str, tuple[int, ...]]]) -> dict[str, int]:
    import torch

    from ...algorithms import ALGORITHMS

    layouts: Counter[frozenset[tuple[str, int]]] = Counter()  # an algorithm is told by which tensors there are and by their axes
    for suffixes in modules.values():
        layouts[frozenset((suffix, len(shape)) for suffix, shape in suffixes.items())] += 1
    counts: Counter[str] = Counter()
    for layout, number in layouts.items():
        tensors = {suffix: torch.empty((1,) * axes, device="meta") for suffix, axes in layout}
        kind = next((kind for kind in ALGORITHMS if kind.detects(tensors)), None)
        if kind is not None:
            title = TITLES.get(kind.name.partition(" ")[0], kind.name)
            counts[f"{title} (DoRA)" if "dora_scale" in tensors or "magnitude" in tensors else title] += number
    return dict(counts.most_common())


def _has_cover(metadata: Mapping[str, str]) -> bool:
    try:
        covers = parse_json(metadata.get(COVERS) or "[]")
    except ValueError:
        return False
    return isinstance(covers, list) and any(covers[:1])
