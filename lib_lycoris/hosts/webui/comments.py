"""What people read of us below an image and in its infotext."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ...networks import Network
from .folders import hash_of

PROBLEMS, OURS, COMMON, USED = "Lyco problems", "Lyco hashes", "Lora hashes", "Lyco tags used"
BETWEEN = " | "
_UNWANTED = str.maketrans("", "", ":,")  # what would break the list of hashes


class Untold(str):
    """A text that the API returns and the images' own texts leave out: the webuis call what can be called, and write no None."""

    def __call__(self, **_: Any) -> None:
        """Return what is to be written."""


def begin(p: Any) -> None:
    """Forget what was said of the batch before: each image's text is of its own networks."""
    ours = getattr(p, "lyco_hashes", None)
    for key in (PROBLEMS, OURS, USED):
        p.extra_generation_params.pop(key, None)
    if ours:
        theirs = {name: digest for name, digest in (getattr(p, "lora_hashes", None) or {}).items() if ours.get(name) != digest}
        p.lyco_hashes, p.lora_hashes = {}, theirs
        p.extra_generation_params.pop(COMMON, None)
        if theirs:
            p.extra_generation_params[COMMON] = _written(theirs)


def note_tags(p: Any, tags: Sequence[str]) -> None:
    """Write which tags acted, where the prompt of an image says others."""
    p.extra_generation_params[USED] = " ".join(tags) or "none"


def tell(p: Any, sentences: Sequence[str]) -> None:
    """Show sentences below the image, and in what the API returns, which has no comments; in the image's text where the settings ask."""
    from modules import shared

    if not sentences:
        return
    sentences = [" ".join(sentence.split()) for sentence in sentences]  # an infotext has one line for all of them
    for sentence in sentences:
        p.comment(sentence)
    before = p.extra_generation_params.get(PROBLEMS)
    known = before.split(BETWEEN) if before else []
    text = BETWEEN.join(dict.fromkeys([*known, *sentences]))
    asked = getattr(shared.opts, "lyco_problems_in_infotext", False)
    p.extra_generation_params[PROBLEMS] = text if asked else Untold(text)


def note_hashes(p: Any, networks: Mapping[str, Network]) -> None:
    """Write "Lyco hashes", and remember them for the list that model sites read."""
    from modules import shared

    if not getattr(shared.opts, "lyco_add_hashes_to_infotext", True):
        return
    found = dict(getattr(p, "lyco_hashes", None) or {})
    for name, network in networks.items():
        with suppress(OSError):  # a file that was taken away after it was read has no hash any more, and keeps its effect
            if digest := hash_of(network.path, network.metadata):
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
