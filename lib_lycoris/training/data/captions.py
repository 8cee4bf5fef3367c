"""What an image's caption is at one place of the run: tags shuffled and left out, words before and behind it, as sd-scripts does it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from ...errors import ToolError, reason
from ...plain_json import parse_json
from .subset import Subset

ENDINGS = (".txt", ".caption")
BRACES = re.compile(r"\{([^{}]+)\}")


def read_caption(image: Path, subset: Subset, listed: Mapping[str, str]) -> str | None:
    """Return what stands beside an image, or in a list of captions; None where there is nothing. Raises ToolError for no text."""
    for name in (str(image), image.name, image.stem):
        if name in listed:
            return listed[name]
    endings = (subset.caption_extension,) if subset.caption_extension else ENDINGS
    for ending in endings:
        path = image.with_suffix(ending if ending.startswith(".") else f".{ending}")
        if path.is_file():
            try:
                return path.read_text("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise ToolError(f"{path.name} is no text in UTF-8; save it as such") from error
    return None


def listed_captions(path: Path | None) -> dict[str, str]:
    """Return the captions of a metadata file by the names of images. Raises ToolError naming the file and line."""
    if path is None:
        return {}
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ToolError(f"{path.name} cannot be read: {reason(error)}") from error
    return _lines(path, text) if path.suffix == ".jsonl" else _table(path, text)


def _lines(path: Path, text: str) -> dict[str, str]:
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                entry = parse_json(line)
                found[str(entry["file_name"])] = str(entry.get("text", entry.get("caption", "")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ToolError(f'{path.name}, line {number}: a table with "file_name" and "text" is expected') from error
    return found


def _table(path: Path, text: str) -> dict[str, str]:
    try:
        content: Any = parse_json(text)
        return {name: ", ".join(filter(None, (entry.get("caption"), entry.get("tags")))) for name, entry in content.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ToolError(f'{path.name} must be a table of images, each with "caption" or "tags" as texts: {reason(error)}') from error


def caption_at(caption: str, subset: Subset, epoch: int, choose: Random) -> str:
    """Return a caption as it is once; ``epoch`` from 0, where sd-scripts counts from 1: of every second one the first has its captions."""
    if subset.caption_dropout_every_n_epochs and (epoch + 1) % subset.caption_dropout_every_n_epochs == 0:
        return ""
    if choose.random() < subset.caption_dropout_rate:
        return ""
    if subset.enable_wildcard:
        caption = _wild(caption, choose)
    else:
        caption = caption.split("\n")[0]
    around = (subset.trigger_word, subset.caption_prefix, caption, subset.caption_suffix)
    first, prefix, text, suffix = (part or "" for part in around)
    text = " ".join(filter(None, (prefix, text, suffix)))
    if subset.shuffle_caption or subset.caption_tag_dropout_rate > 0 or subset.keep_tokens_separator:
        text = _tags(text, subset, choose)
    if subset.secondary_separator:
        text = text.replace(subset.secondary_separator, subset.caption_separator)
    return f"{first}{subset.caption_separator} {text}" if first and text else first or text


def _wild(caption: str, choose: Random) -> str:
    """Return one line, with one of the words in each pair of braces; {{ and }} are braces."""
    lines = [line for line in caption.split("\n") if line.strip()] or [""]
    text = choose.choice(lines).replace("{{", "\0").replace("}}", "\1")
    text = BRACES.sub(lambda match: choose.choice(match[1].split("|")), text)
    return text.replace("\0", "{").replace("\1", "}")


def _tags(text: str, subset: Subset, choose: Random) -> str:
    separator = subset.caption_separator
    kept: list[str] = []
    last: list[str] = []
    if subset.keep_tokens_separator and subset.keep_tokens_separator in text:
        parts = text.split(subset.keep_tokens_separator)
        kept, text = _split(parts[0], separator), parts[1]
        last = _split(parts[2], separator) if len(parts) > 2 else []
        free = _split(text, separator)
    else:
        tags = _split(text, separator)
        kept, free = tags[: subset.keep_tokens], tags[subset.keep_tokens :]
    if subset.shuffle_caption:
        choose.shuffle(free)
    if subset.caption_tag_dropout_rate > 0:
        free = [tag for tag in free if choose.random() >= subset.caption_tag_dropout_rate]
    return f"{separator} ".join([*kept, *free, *last])


def _split(text: str, separator: str) -> list[str]:
    return [tag.strip() for tag in text.split(separator) if tag.strip()]
