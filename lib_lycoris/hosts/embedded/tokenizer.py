"""CLIP's tokenizer for real checkpoints, one of few words for the demo model and one of bytes; all from files that are already here."""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ...demo.words import WORDS
from ...errors import HostError

REPOSITORY = "openai/clip-vit-large-patch14"  # all Stable Diffusion checkpoints up to SDXL share its vocabulary
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2  # CLIP uses this many lines of the merges that its authors published


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


@cache
def demo_merges() -> tuple[str, ...]:
    """Return the merges that put each word of the demo model together, from its front; earlier ones apply to later words too."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        for left, right in merges:
            pieces = _merged(pieces, left, right)
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = None
            pieces = _merged(pieces, pieces[0], pieces[1])
    return tuple(f"{left} {right}" for left, right in merges)


def _merged(pieces: Sequence[str], left: str, right: str) -> list[str]:
    found: list[str] = []
    for piece in pieces:
        if found and found[-1] == left and piece == right:
            found[-1] = left + right
        else:
            found.append(piece)
    return found


def _cached() -> Any | None:
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(REPOSITORY, local_files_only=True)
    except (OSError, ValueError):
        return None  # not there; the next source is tried, and the last one tells the user


def _from_open_clip() -> Any | None:
    found = importlib.util.find_spec("open_clip")
    file = Path(found.origin).with_name("bpe_simple_vocab_16e6.txt.gz") if found and found.origin else None
    if file is None or not file.is_file():
        return None
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")
    return _build(lines[1 : MERGES + 1])


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

    letters = _byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges), BOS, EOS]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        vocabulary = {word: number for number, word in enumerate(words)}
        (place / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        (place / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
        (place / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 77, **special}), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


def _byte_letters() -> list[str]:
    """Return a printable letter for each byte, in the order of CLIP's vocabulary: bytes that print as they are come first."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in plain] + [chr(256 + place) for place in range(256 - len(plain))]
