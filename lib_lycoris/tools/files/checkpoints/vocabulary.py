"""The words that a CLIP text encoder has a token of their own for, by the tokens' numbers; from files that are already here."""

from __future__ import annotations

import gzip
import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ....errors import ToolError, reason
from ....models.demo_words import WORDS
from ....plain_json import read_json

REPOSITORY = "openai/clip-vit-large-patch14"  # all Stable Diffusion checkpoints up to SDXL share its vocabulary
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2  # CLIP uses this many lines of the merges that its authors published
END = "</w>"  # behind the last piece of a word


def vocabulary(model: Path, size: int) -> list[str]:
    """Return the pieces of words by token, for a checkpoint whose text encoder knows so many.

    They are in a diffusers folder; else the demo model's, else CLIP's from the hub's cache or an installed open_clip. Raises ToolError.
    """
    for file in sorted(model.glob("tokenizer*/vocab.json")) if model.is_dir() else []:
        found = _read(file)
        if len(found) == size:
            return found
    if size == len(words_of(demo_merges())):
        return words_of(demo_merges())
    if size != MERGES + 2 * 256 + 2:
        raise ToolError(f"{model.name} knows {size} tokens, which is no vocabulary known here; give a diffusers folder with its tokenizer")
    return _of_clip(model.name)


def _of_clip(name: str) -> list[str]:
    found = _cached()
    if found is not None:
        return _read(found)
    merges = open_clip_merges()
    if merges is None:
        raise ToolError(
            f"the words of {name}'s tokens are neither in the Hugging Face cache ({REPOSITORY}) nor in an installed open_clip; "
            "run `pip install open_clip_torch`, or give a diffusers folder with its tokenizer"
        )
    return words_of(merges)


def _cached() -> Path | None:
    """Return the vocabulary's file in the hub's cache, wherever the variables put it; None where it is not there."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return next(iter(sorted(cache.glob(f"models--{REPOSITORY.replace('/', '--')}/snapshots/*/vocab.json"))), None)


def _read(path: Path) -> list[str]:
    try:
        table = read_json(path)
        return [word for word, _ in sorted(table.items(), key=lambda item: int(item[1]))]
    except (OSError, ValueError, AttributeError, TypeError, OverflowError) as error:
        raise ToolError(f"{path.name} is no vocabulary: {reason(error)}; download the folder again") from error


def open_clip_merges() -> list[str] | None:
    """Return CLIP's merges as an installed open_clip has them; None without one."""
    found = importlib.util.find_spec("open_clip")
    file = Path(found.origin).with_name("bpe_simple_vocab_16e6.txt.gz") if found and found.origin else None
    if file is None or not file.is_file():
        return None
    return gzip.decompress(file.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]


def words_of(merges: Sequence[str]) -> list[str]:
    """Return the pieces of words of a byte-pair encoding by token: bytes, bytes that end a word, what is put together, two marks."""
    letters = byte_letters()
    return [*letters, *(letter + END for letter in letters), *("".join(merge.split()) for merge in merges), BOS, EOS]


def byte_letters() -> list[str]:
    """Return a printable letter for each byte, in the order of CLIP's vocabulary: bytes that print as they are come first."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in plain] + [chr(256 + place) for place in range(256 - len(plain))]


@cache
def demo_merges() -> tuple[str, ...]:
    """Return the merges that put each word of the demo model together, from its front; earlier ones apply to later words too."""
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + END]
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
