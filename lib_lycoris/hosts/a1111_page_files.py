"""What the webui's cards, lists and pasted prompts need to know about network files: from headers only, cached by the host."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import models
from ..algorithms import ALGORITHMS
from ..errors import LycorisError
from ..networks.hashes import short
from ..networks.keys import Keys, sort_out
from ..networks.loading import module_shapes
from ..networks.reader import TensorFile, open_file
from .library import Library, NetworkFile

# What the built-in loader writes as "sd version" where it knows the family, and our words for the others.
VERSIONS: Mapping[str, str] = {
    "sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL", "sdxl-refiner": "SDXL", "sd3": "SD3", "flux": "Flux",
}  # fmt: skip
UNKNOWN = "Unknown"
COVERS = "ssmd_cover_images"
TITLES: Mapping[str, str] = {
    "lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "glora": "GLoRA", "ia3": "IA3", "oft": "OFT", "boft": "BOFT",
    "full": "Full", "norm": "Norm", "dora": "DoRA", "tlora": "T-LoRA",
}  # fmt: skip
_CACHE = "lycoris"
_CACHE_VERSION = 1  # part of the cache's keys: another meaning of what is stored gets another number


@dataclass(frozen=True)
class Facts:
    """What a file's header tells; all empty for a file that cannot be read or is no safetensors file."""

    metadata: dict[str, Any] = field(default_factory=dict)
    version: str = UNKNOWN  # one of VERSIONS' values
    algorithms: dict[str, int] = field(default_factory=dict)  # title -> number of modules, most frequent first
    broken: str = ""  # why the file cannot be read

    @property
    def alias(self) -> str:
        """The name that its trainer gave the network, or nothing."""
        return str(self.metadata.get("ss_output_name") or "").strip()

    @property
    def stored_hash(self) -> str:
        """The hash that its trainer wrote into the file, or nothing."""
        return short(str(self.metadata.get("sshs_model_hash") or ""))

    @property
    def label(self) -> str:
        """The algorithm and family in a few words, such as `LoKr, SD1`."""
        kinds = list(self.algorithms)[:2]
        known = [self.version] if self.version != UNKNOWN else []
        return "cannot be read" if self.broken else ", ".join([*kinds, *known])


def library() -> Library:
    """Return the library of scanned networks that the whole extension shares."""
    from .a1111 import host

    return host().library


def known_hash(file: NetworkFile, found: Facts) -> str:
    """Return the first 12 characters of a file's hash if it is known without reading the whole file, else nothing."""
    from modules import hashes  # type: ignore[import-not-found,unused-ignore]

    bare = file.path.suffix.lower() == ".safetensors"
    return found.stored_hash or (hashes.sha256_from_cache(str(file.path), f"lora/{file.path.stem}", use_addnet_hash=bare) or "")[:12]


def names(shelf: Library) -> dict[str, NetworkFile]:
    """Return tag name -> file: the file name, or the place below its folder where several files have that name."""
    counts = Counter(file.name.lower() for file in shelf.files)
    found: dict[str, NetworkFile] = {}
    for file in shelf.files:
        found.setdefault(file.name if counts[file.name.lower()] == 1 else file.place, file)
    return found


def facts(path: Path) -> Facts:
    """Describe a file by its header; the host's cache keeps it until the file changes."""
    if path.suffix.lower() != ".safetensors":
        return Facts()  # a pickle would have to be opened whole
    try:
        from modules import cache  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return read_facts(path)
    fresh: list[Facts] = []

    def read() -> dict[str, Any] | None:
        fresh.append(read_facts(path))
        return None if fresh[0].broken else asdict(fresh[0])  # the next look may find it mended, at the same age

    try:
        found = cache.cached_data_for_file(_CACHE, f"facts{_CACHE_VERSION}/{path}", str(path), read)
    except OSError as error:
        return Facts(broken=f"{path.name} cannot be read: {error.strerror or error}")
    return fresh[0] if fresh else Facts(**found)


def read_facts(path: Path) -> Facts:
    """Describe a file by its header; one that cannot be read says why."""
    try:
        file = open_file(path)
        keys = sort_out(file.tensors)
        family = models.detect_family(module_shapes(file, keys), file.metadata)
    except (LycorisError, OSError, ValueError, RecursionError) as error:
        return Facts(broken=str(error))
    metadata = {key: _parsed(value) for key, value in file.metadata.items()}
    return Facts(metadata, VERSIONS.get(family or "", UNKNOWN), _algorithms(file, keys))


def top_tags(metadata: Mapping[str, Any], count: int) -> list[tuple[str, int]]:
    """Return the most frequent caption tags; metadata of another form has none."""
    counts: Counter[str] = Counter()
    folders = metadata.get("ss_tag_frequency")
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, number in tags.items() if isinstance(tags, dict) else ():
            if isinstance(number, int):
                counts[tag.strip()] += number
    return counts.most_common(count)


def _parsed(value: str) -> Any:
    """Turn a table written as JSON into one, as the host's own reader of metadata does."""
    if not value.startswith("{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _algorithms(file: TensorFile, keys: Keys) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for suffixes in keys.modules.values():
        shapes = {suffix: torch.empty(file.tensors[key].shape, device="meta") for suffix, key in suffixes.items()}
        kind = next((kind for kind in ALGORITHMS if kind.detects(shapes)), None)
        if kind is not None:
            title = TITLES.get(kind.name.partition(" ")[0], kind.name)
            counts[f"{title} (DoRA)" if "dora_scale" in shapes or "magnitude" in shapes else title] += 1
    return dict(counts.most_common())
