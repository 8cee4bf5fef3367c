"""sd-scripts' dataset TOML -> datasets: what a subset does not say its dataset says, then [general], then the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ToolError
from ..toml_file import read_toml
from .folders import dataset, images_in, metadata_in
from .subset import SHARED, Dataset, Subset, configured

DATASET_KEYS = {
    "resolution", "batch_size", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale", "subsets",
}  # fmt: skip
SUBSET_KEYS = SHARED | {"image_dir", "num_repeats", "is_reg", "class_tokens", "metadata_file", "caption_extention"}
NO_EFFECT = {"cache_info", "token_warmup_min", "token_warmup_step", "network_multiplier"}


def read_datasets(path: Path, values: Mapping[str, Any], size: int) -> list[Dataset]:
    """Return the datasets of a TOML file. Raises ToolError naming the file and the key."""
    content = read_toml(path)
    general = content.get("general", {})
    _known(path, general, DATASET_KEYS | SUBSET_KEYS)
    if not content.get("datasets"):
        raise ToolError(f"{path.name} has no [[datasets]]")
    found = []
    for one in content["datasets"]:
        _known(path, one, DATASET_KEYS | SUBSET_KEYS)
        common = {**values, **general, **one}
        if "batch_size" in common:
            common["train_batch_size"] = common["batch_size"]
        found.append(dataset([_subset(path, entry, common) for entry in one.get("subsets", ())], common, size))
        if not found[-1].subsets:
            raise ToolError(f"{path.name}: a dataset has no [[datasets.subsets]]")
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
    unknown = sorted(set(table) - keys - NO_EFFECT)
    if unknown:
        raise ToolError(f"{path.name}: {unknown[0]} is not offered here; known are {', '.join(sorted(keys - {'subsets'}))}")
    if table.get("token_warmup_step"):
        raise ToolError(f"{path.name}: token_warmup_step is not offered here: it depends on how far the run is")
