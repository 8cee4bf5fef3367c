"""Which files a base model's folder consists of: the parts of a diffusers pipeline, or one model in one or several files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ....errors import ToolError
from ....models.families import PIPELINE_PARTS

VARIANT = re.compile(r"\.(fp16|bf16|fp32|non_ema|ema)(-\d{5}-of-\d{5})?\.(safetensors|bin)$")
SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.(?:safetensors|bin|gguf)$)")


def folder_files(path: Path) -> list[tuple[str, Path]]:
    """Return (component with its dot, weights file) of a pipeline's folder, or ("", file) where the folder is one model.

    Raises ToolError for a folder that is neither, and where one of a model's files is missing.
    """
    found = [(f"{part}.", file) for part in PIPELINE_PARTS for file in weight_files(path / part)]
    return found or [("", file) for file in _one_model(path)]


def _one_model(path: Path) -> list[Path]:
    """Return the weights of a folder without components: a component itself, or an original model in several files."""
    files = weight_files(path)
    stems = {SHARD.sub("", file.name) for file in files}
    if len(stems) == 1 and (SHARD.search(files[0].name) or (path / "config.json").is_file()):
        return files
    raise ToolError(
        f"{path.name} is no model's folder: none of {', '.join(PIPELINE_PARTS)} in it has a .safetensors or .bin file, nor is it one model "
        "in numbered files or with a config.json; give a checkpoint file, or the folder of one model"
    )


def weight_files(folder: Path) -> list[Path]:
    """Return the weights of a component; those of a variant (fp16) and files of torch.save only where there are no plain ones."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    chosen = [file for file in files if not VARIANT.search(file.name)]
    if not chosen:
        kinds = sorted({match[1] for file in files if (match := VARIANT.search(file.name))})
        chosen = [file for file in files if kinds and (match := VARIANT.search(file.name)) and match[1] == kinds[0]]
    _require_all(folder, chosen)
    return chosen


def _require_all(folder: Path, files: Sequence[Path]) -> None:
    """Raise ToolError when one of a model's numbered files is missing: the rest alone would be changed in part."""
    names = {file.name for file in files}
    for file in files:
        if (match := SHARD.search(file.name)) is None:
            continue
        for number in range(1, int(match[2]) + 1):
            wanted = f"{file.name[: match.start()]}-{number:05}-of-{match[2]}{file.suffix}"
            if wanted not in names:
                raise ToolError(f"{folder.name}/{wanted} is missing, one of the {int(match[2])} files of this model; download it again")


def refuse_part(path: Path) -> None:
    """Raise ToolError for a file that is not a whole model: one of several, or the list of them."""
    match = SHARD.search(path.name)
    if match and int(match[2]) > 1:
        how = "join them into one first" if path.suffix == ".gguf" else "give the folder that holds them all"
        raise ToolError(f"{path.name} is one of the {int(match[2])} files of a model; {how}")
    if path.name.endswith("index.json"):
        raise ToolError(f"{path.name} only lists the files of a model; give the folder that it lies in")
