"""Words that a network file brings along: in the webui's table of embeddings while the network is active."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ...networks import Network

TEXTUAL_INVERSION = ("string_to_param.*", "emb_params", "*", "clip_l")  # names of one text encoder's vectors in the wild


class Words:
    """The words that are there because of us."""

    def __init__(self) -> None:
        self._ours: dict[str, Any] = {}

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
        if not self._ours:
            return
        table, model = _table()
        for word, embedding in self._ours.items():
            if table.word_embeddings.get(word) is embedding:
                table.register_embedding_by_name(None, model, word)
        self._ours = {}

    def _add(self, word: str, parts: Mapping[str, Tensor], network: Network) -> str | None:
        from modules.textual_inversion import textual_inversion

        table, model = _table()
        known = table.word_embeddings.get(word)
        if known is not None:
            if known is self._ours.get(word):
                return None  # the same network twice in a prompt
            return f'{network.name}: its word "{word}" is not used, an embedding of that name is there already'
        data = _data(parts)
        if data is None:
            return f'{network.name}: its word "{word}" has parts that the webui does not know ({", ".join(parts)})'
        embedding = textual_inversion.create_embedding_from_data(data, word, filename=f"{network.path}/{word}")
        if table.expected_shape not in (-1, embedding.shape):
            wanted = f"{table.expected_shape} wide, not {embedding.shape}"
            return f'{network.name}: its word "{word}" is for another model, the text encoder here is {wanted}'
        self._ours[word] = table.register_embedding(embedding, model)
        return None


def _table() -> tuple[Any, Any]:
    from modules import sd_hijack

    from .adapters.a1111 import current

    return sd_hijack.model_hijack.embedding_db, current()


def _data(parts: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return what the webui's own reader of embedding files takes."""
    if {"clip_g", "clip_l"} <= set(parts):
        return {"clip_g": parts["clip_g"], "clip_l": parts["clip_l"]}
    found = next((parts[name] for name in TEXTUAL_INVERSION if name in parts), None)
    if found is None:
        return None
    return {"string_to_param": {"*": found if found.dim() > 1 else found[None]}}
