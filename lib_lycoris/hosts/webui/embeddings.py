"""Words that a network file brings along: in the webui's table of embeddings while the network is active."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ...networks import Network
from .adapters import Adapter, WordTable

TEXTUAL_INVERSION = ("string_to_param.*", "emb_params", "*", "clip_l")  # names of one text encoder's vectors in the wild


class Words:
    """The words that are there because of us."""

    def __init__(self, webui: Adapter) -> None:
        self.webui = webui
        self._ours: dict[str, list[tuple[WordTable, Any]]] = {}

    def put(self, networks: Iterable[Network]) -> list[str]:
        """Have exactly the words of these networks in the table; return a sentence for each that cannot be."""
        self.remove()
        problems: list[str] = []
        for network in networks:
            for word, parts in network.embeddings.items():
                problem = self._add(word, parts, network)
                if problem:
                    problems.append(problem)
        return problems

    def remove(self) -> None:
        """Take our words out; a word that somebody else has put there since stays."""
        for word, places in self._ours.items():
            for table, embedding in places:
                table.remove(word, embedding)
        self._ours = {}

    def _add(self, word: str, parts: Mapping[str, Tensor], network: Network) -> str | None:
        if word in self._ours:
            return None  # the same network twice in a prompt
        tables = self.webui.word_tables(self.webui.current())
        if not tables:
            return f'{network.name}: its word "{word}" is not used, the text encoders of this model take no embeddings'
        if any(table.known(word) is not None for table in tables):
            return f'{network.name}: its word "{word}" is not used, an embedding of that name is there already'
        data = _data(parts)
        if data is None:
            return f'{network.name}: its word "{word}" has parts that the webui does not know ({", ".join(parts)})'
        made = [(table, table.make(data, word, f"{network.path}/{word}")) for table in tables]
        problem = next((found for table, embedding in made if (found := table.refuses(embedding))), None)
        if problem:
            return f'{network.name}: its word "{word}" is for another model, the text encoder here is {problem}'
        for table, embedding in made:
            table.put(embedding)
        self._ours[word] = made
        return None


def _data(parts: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return what the webui's own reader of embedding files takes."""
    if {"clip_g", "clip_l"} <= set(parts):
        return {"clip_g": parts["clip_g"], "clip_l": parts["clip_l"]}
    found = next((parts[name] for name in TEXTUAL_INVERSION if name in parts), None)
    if found is None:
        return None
    return {"string_to_param": {"*": found if found.dim() > 1 else found[None]}}
