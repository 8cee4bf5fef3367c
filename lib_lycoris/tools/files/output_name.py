"""Names that an output must not have: no tag could ask for it, or no other system could hold it."""

from __future__ import annotations

from pathlib import Path

from ...errors import ToolError, readable

# what ends a name in a tag, and what Windows has no file names with
REFUSED = frozenset('<>:"|?*\\')
PORTS = (f"{port}{number}" for port in ("com", "lpt") for number in "0123456789\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO}\N{SUPERSCRIPT THREE}")
RESERVED = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$", *PORTS})
NETWORK = ".safetensors"  # the one format that networks are written in; programs list no other spelling of the ending


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
