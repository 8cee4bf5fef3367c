"""Files in the webui: where networks lie, what is loaded of them, their hashes, and the presets of the block weight extension."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import LycorisError
from ..models import BaseModel
from ..networks import Network, load
from ..networks.hashes import short
from ..prompt import Presets

PRESET_FILES = ("lbwpresets.txt", "elempresets.txt")  # as the block weight extension calls them, in its folder "scripts"


def folders() -> list[Path]:
    """Return the folders to look for networks in, the most specific first: --lyco-dir, models/LyCORIS, models/Lora."""
    from modules import paths, shared

    options = shared.cmd_opts
    models = Path(paths.models_path)
    named = [getattr(options, name, None) for name in ("lyco_dir", "lyco_dir_backcompat", "lora_dir")]
    found = [Path(text) for text in named if text] or []
    if not getattr(options, "lyco_dir_backcompat", None):
        found.append(models / "LyCORIS")
    if not getattr(options, "lora_dir", None):
        found.append(models / "Lora")
    return list({str(path.absolute()): path for path in found}.values())


class Loaded:
    """Networks in memory, by file and by the shapes of the model that they were matched with."""

    def __init__(self) -> None:
        self._found: dict[tuple[Path, object], tuple[tuple[int, int], Network | LycorisError]] = {}
        self._used: set[tuple[Path, object]] = set()

    def get(self, path: Path, base: BaseModel, shapes: object) -> Network:
        """Return the network in a file, read again if the file has changed; raise LycorisError or OSError."""
        key = (path, shapes)
        info = path.stat()
        stamp = (info.st_mtime_ns, info.st_size)
        before = self._found.pop(key, None)
        found = before[1] if before is not None and before[0] == stamp else _read(path, base)
        self._found[key] = (stamp, found)  # the latest last
        self._used.add(key)
        if isinstance(found, LycorisError):
            raise type(found)(*found.args)
        return found

    def stamp(self, path: Path, shapes: object) -> tuple[int, int]:
        """Return the time and size that a file had when it was read; it must be in memory."""
        return self._found[(path, shapes)][0]

    def end_run(self, kept: int) -> None:
        """Forget what the last run did not use, but for so many."""
        others = [key for key in self._found if key not in self._used]
        for key in others[: max(0, len(others) - kept)]:
            del self._found[key]
        self._used = set()

    def forget(self, kept: int = 0) -> None:
        """Forget all but the latest so many."""
        self._used = set()
        self.end_run(kept)


def _read(path: Path, base: BaseModel) -> Network | LycorisError:
    """Return the network, or why there is none: a file is not read anew for each picture to see that a refiner has no use for it."""
    try:
        return load(path, base)
    except LycorisError as error:
        return type(error)(*error.args)  # without its trace, which holds on to what was read


def hash_of(path: Path, metadata: dict[str, Any] | Any) -> str:
    """Return the first 12 characters of a file's hash as the webui's own loader shows it; empty with --no-hashing."""
    from modules import hashes

    stored = metadata.get("sshs_model_hash")
    if stored:
        return short(str(stored))
    bare = path.suffix.lower() == ".safetensors"
    return short(hashes.sha256(str(path), f"lora/{path.stem}", use_addnet_hash=bare) or "")  # the same entry of the webui's cache


class PresetFiles:
    """The presets of the block weight extension if it is installed, else our own; read again when a file has changed."""

    def __init__(self) -> None:
        self._stamp: object = None
        self._presets = Presets.default()

    def __call__(self) -> Presets:
        """Return them as they are now; raise PromptError for a file that cannot be read."""
        weights, elements = preset_paths()
        stamp = [(path, path.stat().st_mtime_ns) for path in (weights, elements) if path]
        if stamp != self._stamp:
            self._presets = Presets.load(weights, elements)
            self._stamp = stamp
        return self._presets


def preset_paths() -> tuple[Path | None, Path | None]:
    """Return the block weight extension's two files, where they exist."""
    from modules import extensions

    folders = [Path(e.path) / "scripts" for e in extensions.extensions if getattr(e, "enabled", True)]
    found = [next((folder / name for folder in folders if (folder / name).is_file()), None) for name in PRESET_FILES]
    return found[0], found[1]


def summary(count: int, looked_in: Sequence[Path]) -> str:
    """Return the line for the console at the start."""
    from modules import launch_utils

    where = ", ".join(str(path) for path in looked_in)
    return f"LyCORIS: webui {launch_utils.git_tag()}, {count} network files in {where}"
