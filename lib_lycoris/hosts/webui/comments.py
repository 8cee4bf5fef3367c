"""What people read of us below an image and in its infotext."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...networks import Network
from .folders import hash_of

PROBLEMS, OURS, COMMON = "Lyco problems", "Lyco hashes", "Lora hashes"
BETWEEN = " | "
_UNWANTED = str.maketrans("", "", ":,")  # what would break the list of hashes


def tell(p: Any, sentences: Sequence[str]) -> None:
    """Show sentences below the image, and in what the API returns: of comments it returns none."""
    if not sentences:
        return
    sentences = [" ".join(sentence.split()) for sentence in sentences]  # an infotext has one line for all of them
    for sentence in sentences:
        p.comment(sentence)
    before = p.extra_generation_params.get(PROBLEMS)
    known = before.split(BETWEEN) if before else []
    p.extra_generation_params[PROBLEMS] = BETWEEN.join(dict.fromkeys([*known, *sentences]))


def note_hashes(p: Any, networks: Mapping[str, Network]) -> None:
    """Write "Lyco hashes", and remember them for the list that model sites read."""
    from modules import shared

    if not getattr(shared.opts, "lyco_add_hashes_to_infotext", True):
        return
    found = dict(getattr(p, "lyco_hashes", None) or {})
    for name, network in networks.items():
        digest = hash_of(network.path, network.metadata)
        if digest:
            found[name.translate(_UNWANTED)] = digest
    p.lyco_hashes = found
    if found:
        p.extra_generation_params[OURS] = _written(found)
        merge_hashes(p)


def merge_hashes(p: Any) -> None:
    """Add ours to the list of the webui's own loader, which starts it anew at each activation, before or after us."""
    ours = getattr(p, "lyco_hashes", None)
    if not ours:
        return
    theirs = getattr(p, "lora_hashes", None) or {}
    p.lora_hashes = {**ours, **theirs}
    p.extra_generation_params[COMMON] = _written(p.lora_hashes)


def _written(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {digest}" for name, digest in found.items())
