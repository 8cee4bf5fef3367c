"""Names that an output must not have: no tag could ask for it, no other system could hold it, or a file of another kind has it."""

from __future__ import annotations

from pathlib import Path
from zipfile import is_zipfile

from ...errors import LycorisError, ToolError, readable
from ...networks.reading.header import read_metadata

# what ends a name in a tag, and what Windows has no file names with
REFUSED = frozenset('<>:"|?*\\')
PORTS = (f"{port}{number}" for port in ("com", "lpt") for number in "0123456789\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO}\N{SUPERSCRIPT THREE}")
RESERVED = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$", *PORTS})
NETWORK = ".safetensors"  # the one format that networks are written in; programs list no other spelling of the ending
MEASURED = "lycoris_spectra"  # in the metadata of what measure keeps, which has that ending too


def check_name(path: Path) -> None:
    """Raise ToolError for a file name that cannot be asked for in a prompt or does not exist on Windows."""
    name, stem = path.name, path.name.split(".")[0]
    shown = readable(name, 80)
    if found := next((character for character in name if character in REFUSED or readable(character) != character), None):
        raise ToolError(f'"{shown}" cannot be the name of an output: {readable(found)!r} has a meaning in tags or is refused by Windows')
    if name != name.strip() or stem != stem.strip() or name.endswith("."):
        raise ToolError(f'"{shown}" cannot be the name of an output: it begins or ends with a blank or a dot, which tags leave out')
    if stem.lower() in RESERVED:
        raise ToolError(f'"{shown}" cannot be the name of an output: {stem} is a device on Windows')


def check_network_name(path: Path) -> None:
    """Raise ToolError for a name that no program lists as a network's."""
    if path.suffix != NETWORK:
        raise ToolError(f'"{readable(path.name, 80)}" must end in {NETWORK}, the format that networks are written in and programs list')


def refuse_weights(path: Path, option: str) -> None:
    """Raise ToolError when an undo file or what measure keeps would replace a network or a checkpoint."""
    if path.is_file() and path.suffix.lower() == NETWORK and not is_zipfile(path) and not _is_measured(path):
        raise ToolError(f"{path.name} is there already and is a network or a checkpoint; give `{option}` another name")


def _is_measured(path: Path) -> bool:
    try:
        return MEASURED in read_metadata(path)
    except LycorisError:
        return False
