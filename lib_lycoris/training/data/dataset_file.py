"""sd-scripts' dataset TOML -> datasets: what a subset does not say its dataset says, then [general], then the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ToolError
from ...tools.training.options import BY_NAME
from ...tools.training.ranges import check_ranges
from ...tools.validation import KINDS as WORDS
from ...tools.validation import typed
from ..toml_file import read_toml
from .folders import dataset, images_in, metadata_in
from .subset import SHARED, Dataset, Subset, configured

DATASET_KEYS = {
    "resolution", "batch_size", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale", "subsets",
}  # fmt: skip
SUBSET_KEYS = SHARED | {"image_dir", "num_repeats", "is_reg", "class_tokens", "metadata_file", "caption_extention"}
OPTIONS = {"batch_size": "train_batch_size", "caption_extention": "caption_extension"}  # key -> the option that says the same
KINDS: Mapping[str, type] = {"image_dir": str, "class_tokens": str, "metadata_file": str, "num_repeats": int, "is_reg": bool}
NO_EFFECT = {"cache_info", "token_warmup_min", "token_warmup_step", "network_multiplier"}


def read_datasets(path: Path, values: Mapping[str, Any], size: int) -> list[Dataset]:
    """Return the datasets of a TOML file. Raises ToolError naming the file and the key."""
    content = read_toml(path)
    general = content.get("general", {})
    _known(path, general, DATASET_KEYS | SUBSET_KEYS)
    if not content.get("datasets"):
        raise ToolError(f"{path.name} has no [[datasets]]")
    found = []
    for one in tables(path, content, "datasets"):
        _known(path, one, DATASET_KEYS | SUBSET_KEYS)
        common = {**values, **general, **one}
        if "batch_size" in common:
            common["train_batch_size"] = common["batch_size"]
        found.append(dataset([_subset(path, entry, common) for entry in tables(path, one, "subsets")], common, size))
        if not found[-1].subsets:
            raise ToolError(f"{path.name}: a dataset has no [[datasets.subsets]]")
    return found


def tables(path: Path, content: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the tables of a list. Raises ToolError where there is anything else."""
    found = content.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ToolError(f"{path.name}: {name} are tables, each with [[...{name}]] above it")
    return found


def _subset(path: Path, entry: Mapping[str, Any], common: Mapping[str, Any]) -> Subset:
    _known(path, entry, SUBSET_KEYS)
    if "image_dir" not in entry:
        raise ToolError(f"{path.name}: a subset has no image_dir")
    folder = Path(entry["image_dir"])
    folder = folder if folder.is_absolute() or folder.is_dir() else path.parent / folder
    if not folder.is_dir() or not images_in(folder):
        raise ToolError(f"{path.name}: {entry['image_dir']} is no folder with images")
    values = {**common, **entry}
    values["caption_extension"] = values.get("caption_extension") or values.get("caption_extention")
    metadata = Path(entry["metadata_file"]) if entry.get("metadata_file") else metadata_in(folder, {})
    made = Subset(
        folder, int(values.get("num_repeats", 1)), bool(values.get("is_reg", False)), str(values.get("class_tokens") or ""), metadata
    )
    return configured(made, values)


def _known(path: Path, table: Mapping[str, Any], keys: set[str] | frozenset[str]) -> None:
    """Raise ToolError for a key that is not known, or a value that it cannot have."""
    if not isinstance(table, dict):
        raise ToolError(f"{path.name}: general is a table, with [general] above it")
    unknown = sorted(set(table) - keys - NO_EFFECT)
    if unknown:
        raise ToolError(f"{path.name}: {unknown[0]} is not offered here; known are {', '.join(sorted(keys - {'subsets'}))}")
    if table.get("token_warmup_step"):
        raise ToolError(f"{path.name}: token_warmup_step is not offered here: it depends on how far the run is")
    for key, value in table.items():
        if key in KINDS and not isinstance(value, KINDS[key]):
            raise ToolError(f"{path.name}: {key} is {value!r}, but {WORDS[KINDS[key]]} is expected")
        name = str(OPTIONS.get(key, key))
        option = BY_NAME.get(name)
        try:
            if option is not None and key != "resolution":
                typed(option, value)
            check_ranges({name: value})
        except ToolError as error:
            raise ToolError(f"{path.name}: {error}") from error
