"""Words of a training's command line that a page lets people type, or takes out again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ....errors import ToolError
from ....tools.training.options import BY_NAME


def without(words: Sequence[str], *names: str) -> list[str]:
    """Return words without some options of one value each."""
    flags = {f"--{name}" for name in names}
    return [word for place, word in enumerate(words) if word not in flags and (place == 0 or words[place - 1] not in flags)]


def more_words(text: str) -> list[str]:
    """Return further options. Raises ToolError for one that names a file or a folder: those are chosen above."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ToolError(f'"More options" cannot be read: {error}') from error
    by_flag = {flag: option for option in BY_NAME.values() for flag in option.flags}
    for word in words:
        option = by_flag.get(word.partition("=")[0])
        if option is not None and option.type is Path:
            raise ToolError(f"{option.name} names a file or a folder: it is chosen above, or given on the command line")
        if word.startswith("preset=") and word.endswith(".toml"):
            raise ToolError("a preset that is a file is given on the command line only")
    return words


def prompt_words(folder: Path, text: str) -> list[str]:
    """Keep prompts in a run's folder; return the option that names them."""
    if not text.strip():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    return ["--sample_prompts", str(path)]
