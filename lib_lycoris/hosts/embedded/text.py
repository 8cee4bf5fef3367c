"""Prompts -> what the UNet reads: pieces of 75 tokens, and the embeddings that active networks bring with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Union

import torch
from torch import Tensor

from .models import LoadedModel

PIECE = 75  # tokens between the marks of beginning and end
PARTS = (("clip_l", "string_to_param.*", "emb_params", "*"), ("clip_g",))  # of an embedding, for each text encoder, best first
Token = Union[int, Tensor]  # a word of the vocabulary, or a vector in the place of one
Embeddings = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Encoded:
    """Two prompts, encoded to the same length; the pooled vectors are SDXL's."""

    prompt: Tensor  # (1, tokens, width)
    negative: Tensor
    pooled: Tensor | None  # (1, width)
    pooled_negative: Tensor | None

    def arguments(self) -> dict[str, Tensor]:
        """Return them as a diffusers pipeline takes them."""
        found = {"prompt_embeds": self.prompt, "negative_prompt_embeds": self.negative}
        if self.pooled is not None and self.pooled_negative is not None:
            found.update(pooled_prompt_embeds=self.pooled, negative_pooled_prompt_embeds=self.pooled_negative)
        return found


@torch.no_grad()
def encode(model: LoadedModel, prompt: str, negative: str, embeddings: Embeddings) -> Encoded:
    """Run the text encoders as they are now, networks and all; parameters and vocabularies stay untouched."""
    states: list[tuple[Tensor, Tensor]] = []
    pooled: tuple[Tensor, Tensor] | None = None
    for number, (tokenizer, encoder) in enumerate(model.towers()):
        lines = [_tokens(text, tokenizer, _vectors(embeddings, number, encoder)) for text in (prompt, negative)]
        pieces = max(1, *(-(-len(line) // PIECE) for line in lines))
        results = [_run(model, tokenizer, encoder, line, pieces) for line in lines]
        states.append((results[0][0], results[1][0]))
        pooled = (results[0][1], results[1][1])
    length = max(first.shape[1] for first, _ in states)
    both = [torch.cat([_padded(state[side], length) for state in states], dim=-1) for side in (0, 1)]
    wide = model.family == "sdxl" and pooled is not None
    return Encoded(both[0], both[1], pooled[0] if wide and pooled else None, pooled[1] if wide and pooled else None)


def _vectors(embeddings: Embeddings, number: int, encoder: Any) -> dict[str, Tensor]:
    """Return word -> (vectors, width) for one text encoder; an embedding of another width is another model's."""
    width = encoder.get_input_embeddings().weight.shape[1]
    found = {}
    for word, parts in embeddings.items():
        tensor = next((parts[part] for part in PARTS[number] if part in parts), None)
        if tensor is not None and tensor.shape[-1] == width:
            found[word] = tensor.reshape(-1, width)
    return found


def usable(model: LoadedModel, parts: Mapping[str, Tensor]) -> bool:
    """Tell whether an embedding fits every text encoder of the model."""
    return all(_vectors({"": parts}, number, encoder) for number, (_, encoder) in enumerate(model.towers()))


def _tokens(text: str, tokenizer: Any, vectors: Mapping[str, Tensor]) -> list[Token]:
    if not vectors:
        return _words(text, tokenizer)
    longest = sorted(vectors, key=len, reverse=True)
    names = {name.lower(): name for name in longest}
    found: list[Token] = []
    for piece in re.split(rf"(?<!\w)({'|'.join(map(re.escape, longest))})(?!\w)", text, flags=re.IGNORECASE):
        name = names.get(piece.lower())
        found.extend(_words(piece, tokenizer) if name is None else vectors[name])
    return found


def _words(text: str, tokenizer: Any) -> list[Token]:
    return list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids) if text.strip() else []


def _run(model: LoadedModel, tokenizer: Any, encoder: Any, line: Sequence[Token], pieces: int) -> tuple[Tensor, Tensor]:
    """Return (1, pieces * 77, width) and the pooled vector of the first piece."""
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    states, pooled = [], None
    for number in range(pieces):
        inner = list(line[number * PIECE : (number + 1) * PIECE])
        tokens = [begin, *inner, end, *[pad] * (PIECE - len(inner))]
        with _replaced_inputs(encoder, tokens):
            ids = torch.tensor([[token if isinstance(token, int) else 0 for token in tokens]], device=encoder.device)
            result = encoder(ids, output_hidden_states=True)
        states.append(_state(model, encoder, result))
        if pooled is None:
            pooled = result[0] if model.family == "sdxl" else states[0][:, -1]
    assert pooled is not None
    return torch.cat(states, dim=1), pooled


def _state(model: LoadedModel, encoder: Any, result: Any) -> Tensor:
    if not model.penultimate:
        return result.last_hidden_state
    state = result.hidden_states[-2]
    if model.family == "sdxl":
        return state
    inner = getattr(encoder, "text_model", encoder)
    return inner.final_layer_norm(state)


@contextmanager
def _replaced_inputs(encoder: Any, tokens: Sequence[Token]) -> Iterator[None]:
    """Let the embedding layer give vectors of ours at some places, for one call; its weights are not touched."""
    places = {place: token for place, token in enumerate(tokens) if not isinstance(token, int)}

    def put(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        changed = output.clone()
        for place, vector in places.items():
            changed[:, place] = vector.to(changed)
        return changed

    handle = encoder.get_input_embeddings().register_forward_hook(put) if places else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def _padded(state: Tensor, length: int) -> Tensor:
    return torch.cat([state, state.new_zeros(1, length - state.shape[1], state.shape[2])], dim=1) if state.shape[1] < length else state
