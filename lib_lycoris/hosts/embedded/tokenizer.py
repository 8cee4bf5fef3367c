"""CLIP's tokenizer for real checkpoints, one of few words for the demo model and one of bytes; all from files that are already here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import HostError
from ...tools.files.checkpoints.vocabulary import BOS, EOS, REPOSITORY, demo_merges, open_clip_merges, words_of


def clip_tokenizer(pad_with_zero: bool) -> Any:
    """Return CLIP's tokenizer from the hub's cache, else from an installed open_clip, else from the hub.

    SD1's text encoder pads with its end mark, open_clip's with the token 0 ("!"). Raises HostError if there is none.
    """
    made = _cached() or _from_open_clip() or _downloaded()
    if pad_with_zero:
        made.pad_token = "!"
    return made


def byte_tokenizer() -> Any:
    """Return a CLIP tokenizer whose words are single bytes: 514 tokens, nothing to download."""
    return _build([])


def demo_tokenizer() -> Any:
    """Return a CLIP tokenizer to which the demo model's words are one token each, and others as many as they have bytes."""
    return _build(demo_merges())


def demo_vocabulary() -> int:
    """Return how many tokens the demo model's tokenizer has, which no other model's has."""
    return 2 * 256 + len(demo_merges()) + 2


def _cached() -> Any | None:
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(REPOSITORY, local_files_only=True)
    except (OSError, ValueError):
        return None  # not there; the next source is tried, and the last one tells the user


def _from_open_clip() -> Any | None:
    merges = open_clip_merges()
    return None if merges is None else _build(merges)


def _downloaded() -> Any:
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(REPOSITORY)
    except (OSError, ValueError) as error:
        raise HostError(
            f"CLIP's vocabulary is neither in the Hugging Face cache ({REPOSITORY}) nor in an installed open_clip package, and the hub"
            " cannot be reached; run `pip install open_clip_torch`, or connect once"
        ) from error


def _build(merges: Sequence[str]) -> Any:
    from transformers import CLIPTokenizer

    words = words_of(merges)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        vocabulary = {word: number for number, word in enumerate(words)}
        (place / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (place / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
        (place / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, **special}), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)
