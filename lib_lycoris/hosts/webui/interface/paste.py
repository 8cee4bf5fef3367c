"""A pasted infotext names networks as they were called where the image was made; their hashes tell what they are called here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ....prompt import escape_name, unescape_name
from ..callbacks import listen
from . import card_files as files

NOT_LISTED = str.maketrans("", "", ":,")  # what a list of hashes leaves out of a name
FIELDS = ("Lyco hashes", "Lora hashes")  # the built-in loader lists `<lyco:` tags in the second one
PROMPTS = ("Prompt", "Hires prompt")
HASH = re.compile(r"(?:0x)?([0-9a-fA-F]{8,64})")
TAG = re.compile(r"<lyco:([^:>]+)(?=[:>])")


def register() -> None:
    """Ask the host to show us every pasted infotext."""
    listen("infotext_pasted", on_pasted)


def on_pasted(_: str, fields: dict[str, Any]) -> None:
    """Put the local names into the tags of the fields' prompts; tags of other kinds stay as they are."""
    hashes = read_hashes(fields)
    if not any("<lyco:" in str(fields.get(prompt, "")) for prompt in PROMPTS) or not hashes:
        return
    known = set(known_hashes())
    hashes = {name: digest for name, digest in hashes.items() if (name, digest) not in known}  # of two copies, the one that is named
    local = {digest: name for name, digest in sorted(known)}
    for prompt in PROMPTS:
        if isinstance(fields.get(prompt), str):
            fields[prompt] = renamed(fields[prompt], hashes, local.get)


def read_hashes(fields: Mapping[str, Any]) -> dict[str, str]:
    """Return tag name -> the first 8 characters of its hash, in lower case."""
    found: dict[str, str] = {}
    for field in FIELDS:
        for name, digest in _pairs(str(fields.get(field) or "").strip('"')):
            found.setdefault(name, digest[:8].lower())
    return found


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """Give the names and hashes of `a: 0123abcd, b: 89ef4567`; a name may hold commas. Takes a time in proportion to the length."""
    before: list[str] = []
    for piece in text.split(","):
        head, colon, digest = piece.rpartition(":")
        match = HASH.fullmatch(digest.strip()) if colon else None
        if match is None:
            before.append(piece)
            continue
        if name := ",".join([*before, head]).strip():
            yield name, match[1]
        before.clear()


def renamed(prompt: str, hashes: Mapping[str, str], local: Callable[[str], str | None]) -> str:
    """Return the prompt with the names of `<lyco:` tags replaced by those that `local` gives for their hashes."""

    def replace(tag: re.Match[str]) -> str:
        name = tag[1].strip()
        listed = (name, name.replace(",", ""), unescape_name(name).translate(NOT_LISTED))
        found = local(next((hashes[one] for one in listed if one in hashes), ""))
        return f"<lyco:{escape_name(found) if found else tag[1]}"

    return TAG.sub(replace, prompt)


def known_hashes() -> Iterable[tuple[str, str]]:
    """Give (name, first 8 characters of the hash) of every network whose hash is known without reading the whole file."""
    for name, file in files.library().named.items():
        digest = files.known_hash(file.path, files.facts(file.path))
        if digest:
            yield name, digest[:8].lower()
