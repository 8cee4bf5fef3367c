"""Hostile network files: one file of the corpus, made wrong, and one thing that hosts and tools do with it."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from lib_lycoris.errors import LycorisError

from .judge import Unclean
from .mutations import Content, write_case
from .targets import TARGETS as DONE_WITH_IT

CORPUS = Path(__file__).parents[1] / "corpus"


@cache
def cases() -> tuple[Path, ...]:
    """Return the corpus."""
    return tuple(sorted(CORPUS.glob("*/*/case.json")))


def content_of(case: Path) -> Content:
    """Return a file of the corpus, taken apart."""
    folder = case.parent
    with (folder / "network.safetensors").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(length)).get("__metadata__", {})
    config = folder / "adapter_config.json"
    return Content(load_file(folder / "network.safetensors"), metadata, json.loads(config.read_text()) if config.is_file() else None)


def network_file(rng: random.Random, folder: Path) -> None:
    """Make a network file wrong and use it; a refusal must name the file."""
    case = rng.choice(cases())
    content, use = content_of(case), rng.choice(DONE_WITH_IT)
    torch.manual_seed(rng.randrange(2**32))
    path = write_case(content, folder, rng)
    try:
        use(path, case, rng)
    except LycorisError as error:
        if path.stem not in str(error) and "adapter_config" not in str(error):
            raise Unclean(f"{use.__name__} on {case.parent.name} does not name the file: {str(error)[:300]}") from error
        raise


TARGETS = (network_file,)
