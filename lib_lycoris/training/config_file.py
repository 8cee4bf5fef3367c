"""A configuration of sd-scripts -> the options of a training, as its own trainers and the programs that write such files mean them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ToolError
from ..tools.training.option import TrainingOption, in_its_case
from ..tools.training.options import BY_NAME
from .toml_file import read_toml

NOTHING: tuple[Any, ...] = ("", [])  # what programs write for a field that nobody filled in


def options_in(path: Path) -> dict[str, Any]:
    """Return the options of a TOML file, whatever its sections are called; what is false or empty there is not given."""
    found: dict[str, Any] = {}
    for name, value in read_toml(path).items():
        found.update(value if isinstance(value, dict) else {name: value})
    asked = {}
    for name, value in found.items():
        option = BY_NAME.get(name) or next((o for o in BY_NAME.values() if f"--{name}" in o.flags), None)
        if option is None:
            raise ToolError(f"{path.name}: {name} is no option of a training; see train --help")
        if value in NOTHING or (value is False and option.default in (None, False)):
            continue
        asked[option.name] = _as_typed(option, value)
    return asked


def _as_typed(option: TrainingOption, value: Any) -> Any:
    if option.type is str and option.nargs is None and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)  # resolution = 512
    if option.type is str and option.nargs is None and isinstance(value, list):
        return ",".join(map(str, value))
    if option.type is Path and isinstance(value, str):
        return Path(value)
    return in_its_case(option, value)
