"""Metadata: what a file was made of, and what other programs expect to find in one (modelspec, ss_*, sshs hashes).

A recipe holds no dates and no paths: the same inputs give the same file, wherever and whenever it is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from ... import __version__
from ...errors import ToolError, readable
from ...models.families import FAMILIES
from ...networks.hashes import sha256
from ...networks.limits import sound
from ...networks.reading.folder import file_of
from ...networks.reading.header import header_length
from ...plain_json import parse_json
from ...wording import storable
from ..merge.strengths import NetworkOptions
from .checkpoints.checkpoint import Checkpoint, open_source
from .checkpoints.stream import DATA_HASH, INPUT_HASH

KEY = "lycoris.recipe"
TRIGGERS = ("modelspec.trigger_phrase", "ssmd_keywords", "trained_words")
# What a network's metadata says of its own tensors and a changed file must say anew.
OWN_HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")


def header_hash(path: Path) -> str:
    """Return the sha256 of a weights file's header, which tells two models apart without reading their data."""
    source = open_source(path)
    return hashlib.sha256(source.raw_header).hexdigest() if source.raw_header else sha256(path)


def describe(path: Path, digest: str = "") -> dict[str, Any]:
    """Return how a recipe names an input file: by name, size and sha256 (the header's, where hashing all of it was not wanted)."""
    facts: dict[str, Any] = {"name": path.name, "bytes": file_of(path).stat().st_size}
    return {**facts, "sha256": digest} if digest else {**facts, "header_sha256": header_hash(path)}


def base_entry(checkpoint: Checkpoint, hashed: bool) -> dict[str, Any]:
    """Return how a recipe names its checkpoint; a single file's hash is filled in when the data has been read."""
    if not checkpoint.path.is_dir():
        return describe(checkpoint.path, INPUT_HASH if hashed else "")
    files = [{"file": s.path.relative_to(checkpoint.path).as_posix(), **describe(s.path)} for s in checkpoint.sources]
    return {"name": checkpoint.path.name, "files": files}


def network_entry(item: NetworkOptions) -> dict[str, Any]:
    """Return how a recipe names a network and its strengths."""
    return {**describe(item.path, sha256(item.path)), **item.as_json()}


def make_recipe(tool: str, **facts: Any) -> dict[str, Any]:
    """Return a recipe; facts that are None are left out."""
    return {"tool": tool, "version": __version__, **{key: value for key, value in facts.items() if value is not None}}


def read_recipe(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return the recipe in a file's metadata. Raises ToolError naming the file when there is none."""
    try:
        recipe = parse_json(metadata.get(KEY, ""))
    except ValueError:
        recipe = None
    if not isinstance(recipe, dict) or "tool" not in recipe:
        raise ToolError(f"{name} holds no recipe: it was not made by this program, or its metadata was removed")
    return recipe


def dumps(recipe: Mapping[str, Any]) -> str:
    """Return a recipe as the text that is stored."""
    return storable(json.dumps(recipe, separators=(",", ":"), ensure_ascii=False))


def checkpoint_metadata(
    old: Mapping[str, str], recipe: Mapping[str, Any], family: str, title: str, sources: Sequence[Mapping[str, str]], hashed: bool
) -> dict[str, str]:
    """Return the metadata of a merged checkpoint: the old one, corrected; sources: the networks' metadata."""
    kept = {key: value for key, value in old.items() if key not in OWN_HASHES}
    names = [recipe["sd_model"]["name"], *(network["name"] for network in recipe["networks"])]
    words = triggers([old, *sources])
    architecture = old.get("modelspec.architecture") or FAMILIES[family].written.get("modelspec.architecture")
    spec = {
        "modelspec.sai_model_spec": "1.0.0",
        **({"modelspec.architecture": architecture} if architecture else {}),
        "modelspec.title": title,
        "modelspec.merged_from": ", ".join(names),
        **({"modelspec.trigger_phrase": ", ".join(words)} if words else {}),
        **({"modelspec.hash_sha256": f"0x{DATA_HASH}"} if hashed else {}),
    }
    return {**({"format": "pt"} if not old else {}), **kept, **spec, KEY: dumps(recipe)}


def triggers(sources: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the trigger words of several files, each once, in their order."""
    words: dict[str, None] = {}
    for metadata in sources:
        for key in TRIGGERS:
            words.update(dict.fromkeys(word.strip() for word in metadata.get(key, "").split(",") if word.strip()))
    return list(words)


def network_metadata(
    tensors: Mapping[str, Tensor], old: Mapping[str, str], recipe: Mapping[str, Any], corrections: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """Return the metadata of a network file that is about to be written: the old one, corrected, with hashes of these very tensors.

    corrections: metadata to set, or to leave out where the value is None.
    """
    kept = {key: value for key, value in old.items() if key not in OWN_HASHES}
    for key, value in (corrections or {}).items():
        kept.pop(key, None)
        if value is not None:
            kept[key] = value
    kept[KEY] = dumps(recipe)
    return {**kept, **kohya_hashes(tensors, kept)}


def kohya_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes that kohya's trainer and the webui know a network by: of its data, and of a piece near its start."""
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    raw = serialise({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, training)
    start = 8 + header_length(raw)
    legacy = hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]
    return {"sshs_model_hash": hashlib.sha256(memoryview(raw)[start:]).hexdigest(), "sshs_legacy_hash": legacy}


def rank_facts(ranks: Iterable[int | None], alphas: Iterable[float | None]) -> dict[str, str]:
    """Return ss_network_dim and ss_network_alpha as kohya writes them: a number, or Dynamic where modules differ."""
    found = {}
    for key, values in (("ss_network_dim", ranks), ("ss_network_alpha", alphas)):
        known = {value for value in values if value is not None}
        if known:
            found[key] = f"{known.pop():g}" if len(known) == 1 else "Dynamic"
    return found


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return the floating tensors in a dtype; alpha and other single numbers stay as they are. Raises ToolError where one does not fit."""
    if dtype is None:
        return dict(tensors)
    made = {key: t.to(dtype) if t.is_floating_point() and t.numel() > 1 else t for key, t in tensors.items()}
    for key, tensor in made.items():
        if tensor is not tensors[key] and not sound(tensor):
            raise ToolError(f"{readable(key)} holds numbers that {dtype} cannot; use `save_precision=bf16` or fp32")
    return made
