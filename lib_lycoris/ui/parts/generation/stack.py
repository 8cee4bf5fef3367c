"""A stack: networks with their strengths, blocks and schedules, and a seed, as a small JSON; files are found by their hash."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ....errors import LycorisError, ToolError
from ....hosts.protocol import NetworkCard
from ....networks.hashes import model_hash
from ....plain_json import json_text, parse_json
from ....prompt import Tag, TagError, escape_name, find_tags, unescape_name
from ....records import dataclass

VERSION = 1
KEY = "lycoris stack"
Hash = Callable[[Path], str]


@dataclass(frozen=True)
class Layer:
    """One network of a stack: its tag, and what its file is known by."""

    tag: Tag
    hash: str
    size: int  # bytes


@dataclass(frozen=True)
class Stack:
    """Networks as a prompt has them, and the seed of the image; -1 for none."""

    layers: tuple[Layer, ...]
    seed: int = -1

    def as_json(self) -> str:
        """Return it as the text that people share."""
        layers = [{"tag": layer.tag.format(), "hash": layer.hash, "size": layer.size} for layer in self.layers]
        return json_text({KEY: VERSION, "seed": self.seed, "networks": layers}, indent=1)


def stack_of(prompt: str, seed: int, cards: Sequence[NetworkCard], hash_of: Hash = model_hash) -> Stack:
    """Return the stack of a prompt's tags. Raises ToolError for a prompt without any, or with one whose file is not here."""
    layers = []
    by_name = {card.name: card for card in cards}
    for tag in find_tags(prompt)[1]:
        if isinstance(tag, TagError):
            raise ToolError(str(tag))
        card = by_name.get(tag.name) or by_name.get(unescape_name(tag.name))
        if card is None:
            raise ToolError(f'there is no network called "{tag.name}"; a stack holds the hash of each')
        layers.append(Layer(tag, hash_of(card.path), card.size))
    if not layers:
        raise ToolError("the prompt has no tag; write one such as <lyco:style:0.7>")
    return Stack(tuple(layers), seed)


def read_stack(text: str) -> Stack:
    """Read the text of a stack. Raises ToolError saying what is wrong with it."""
    try:
        found = parse_json(text)
    except ValueError as error:
        raise ToolError("this is no stack: it cannot be read as JSON") from error
    if not isinstance(found, Mapping) or KEY not in found:
        raise ToolError(f'this is no stack: it has no "{KEY}"')
    if found[KEY] != VERSION:
        raise ToolError(f"this stack is of version {str(found[KEY])[:20]}, and {VERSION} is read here; update this program")
    layers, seed = found.get("networks"), found.get("seed", -1)
    if not isinstance(layers, list) or not layers or isinstance(seed, bool) or not isinstance(seed, int):
        raise ToolError("this stack has no list of networks, or a seed that is no whole number")
    return Stack(tuple(_layer(layer) for layer in layers), seed)


def _layer(found: Any) -> Layer:
    tags = find_tags(str(found.get("tag", "")))[1] if isinstance(found, Mapping) else []
    if len(tags) != 1:
        raise ToolError("an entry of this stack has no tag, or more than one")
    if isinstance(tags[0], TagError):
        raise ToolError(str(tags[0]))
    digest, size = found.get("hash"), found.get("size")
    if not isinstance(digest, str) or isinstance(size, bool) or not isinstance(size, int):
        raise ToolError(f"the entry of {tags[0].name} in this stack has no hash and size")
    return Layer(tags[0], digest, size)


def tags_here(stack: Stack, cards: Sequence[NetworkCard], hash_of: Hash = model_hash) -> tuple[list[str], list[str]]:
    """Return a stack's tags with the names that its files have here, and a sentence for each whose file is not here or has another name."""
    tags, said = [], []
    for layer in stack.layers:
        name = unescape_name(layer.tag.name)
        same = sorted((card for card in cards if card.size == layer.size), key=lambda card: card.name != name)
        found = next((card for card in same if _hash(card.path, hash_of) == layer.hash), None)
        if found is None:
            other = any(card.name == name for card in cards)
            why = "the file of that name holds something else" if other else "no file here holds the same"
            said.append(f"{name} was left out: {why} (hash {layer.hash[:12]})")
            continue
        if found.name != name:
            said.append(f"{name} is called {found.name} here")
        tags.append(replace(layer.tag, name=escape_name(found.name)).format())
    return tags, said


def _hash(path: Path, hash_of: Hash) -> str:
    try:
        return hash_of(path)
    except (OSError, LycorisError):  # a file that cannot be read is not the one that is looked for
        return ""
