"""Files in the webui: where networks lie, their hashes, and the presets of the block weight extension."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...networks.hashes import short
from ...prompt import OwnPresets, Presets

PRESET_FILES = ("lbwpresets.txt", "elempresets.txt")  # as the block weight extension calls them, in its folder "scripts"
FIELDS = "pages.json"  # what the pages' fields held at the last visit


def folders() -> list[Path]:
    """Return the folders to look for networks in, the most specific first: those of the command line, models/LyCORIS, models/Lora."""
    from modules import paths, shared

    options = shared.cmd_opts
    models = Path(paths.models_path)
    named = [getattr(options, name, None) for name in ("lyco_dir", "lyco_dir_backcompat", "lora_dir")]
    named.append(getattr(shared.opts, "lora_dir", None))
    found = [Path(text) for text in (*named, *(getattr(options, "lora_dirs", None) or ())) if text]
    if not getattr(options, "lyco_dir_backcompat", None):
        found.append(models / "LyCORIS")
    if not getattr(options, "lora_dir", None):
        found.append(models / "Lora")
    return list({str(path.absolute()): path for path in found}.values())


def hash_of(path: Path, metadata: dict[str, Any] | Any) -> str:
    """Return the first 12 characters of a file's hash as the webui's own loader shows it; empty with --no-hashing."""
    from modules import hashes

    stored = metadata.get("sshs_model_hash")
    if stored:
        return short(str(stored))
    bare = path.suffix.lower() == ".safetensors"
    return short(hashes.sha256(str(path), f"lora/{path.stem}", use_addnet_hash=bare) or "")  # the same entry of the webui's cache


class PresetFiles:
    """The presets of the block weight extension if it is installed, else ours, and those saved on our page; read again when changed."""

    def __init__(self) -> None:
        self._stamp: object = None
        self._presets = Presets.default()

    def __call__(self) -> Presets:
        """Return them as they are now; raise PromptError for a file that cannot be read."""
        weights, elements = preset_paths()
        own = OwnPresets(kept_folder())
        stamp = [*((path, path.stat().st_mtime_ns) for path in (weights, elements) if path), own.stamp]
        if stamp != self._stamp:
            self._presets = own.added_to(Presets.load(weights, elements))
            self._stamp = stamp
        return self._presets


def data_folder() -> Path:
    """Return the folder for what can be made again, in the webui's own folder of such things."""
    from modules import paths

    return Path(paths.data_path) / "cache" / "lycoris"


def kept_folder() -> Path:
    """Return the folder for what people made on our pages; what an older version put into the cache is moved there."""
    from modules import paths

    kept, cache = Path(paths.data_path) / "lycoris", data_folder()
    for old, new in ((cache / name, kept / name) for name in (OwnPresets(cache).path.name, FIELDS)):
        if old.is_file() and not new.exists():
            with suppress(OSError):  # it stays where it is, and can be moved by hand
                kept.mkdir(parents=True, exist_ok=True)
                old.replace(new)
    return kept


def preset_paths() -> tuple[Path | None, Path | None]:
    """Return the block weight extension's two files, where they exist."""
    from modules import extensions

    folders = [Path(e.path) / "scripts" for e in extensions.extensions if getattr(e, "enabled", True)]
    found = [next((folder / name for folder in folders if (folder / name).is_file()), None) for name in PRESET_FILES]
    return found[0], found[1]


def summary(webui: str, count: int, looked_in: Sequence[Path]) -> str:
    """Return the line for the console at the start."""
    where = ", ".join(str(path) for path in looked_in)
    return f"LyCORIS: {webui}, {count} network files in {where}"
