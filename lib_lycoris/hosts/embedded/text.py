"""Prompts -> what the UNet reads: pieces of 75 tokens with the webui's emphasis, and the embeddings that active networks bring."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Union

import torch
from torch import Tensor

from ...prompt.attention import BREAK, read_attention
from ...records import dataclass
from .models import LoadedModel

PIECE = 75  # tokens between the marks of beginning and end
BACK = 20  # tokens after the last comma of a full piece that move to the next one with what follows; the webui's default
COMMA = ","
PARTS = (("clip_l", "string_to_param.*", "emb_params", "*"), ("clip_g",))  # of an embedding, for each text encoder, best first
Token = Union[int, Tensor]  # a word of the vocabulary, or a vector in the place of one
Weighted = tuple[Token, float]
Embeddings = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Encoded:
    """One text as the UNet reads it; the pooled vector is SDXL's."""

    state: Tensor  # (1, tokens, width)
    pooled: Tensor | None  # (1, width)


@torch.no_grad()
def encode(model: LoadedModel, text: str, embeddings: Embeddings) -> Encoded:
    """Run the text encoders as they are now, networks and all; parameters and vocabularies stay untouched.

    Raises PromptError for an emphasis that cannot be read.
    """
    weighted = read_attention(text)
    results = []
    for number, (tokenizer, encoder) in enumerate(model.towers()):
        pieces = _pieces(weighted, tokenizer, _vectors(embeddings, number, encoder))
        results.append(_run(model, tokenizer, encoder, pieces))
    length = max(state.shape[1] for state, _ in results)
    state = torch.cat([_padded(state, length) for state, _ in results], dim=-1)
    return Encoded(state, results[-1][1] if model.pooled else None)


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
    towers = model.towers()
    return bool(towers) and all(_vectors({"": parts}, number, encoder) for number, (_, encoder) in enumerate(towers))


def _pieces(weighted: Sequence[tuple[str, float]], tokenizer: Any, vectors: Mapping[str, Tensor]) -> list[list[Weighted]]:
    """Return the tokens of a text in pieces of up to 75, cut as the webui cuts: at BREAK, or after a comma that is near the end."""
    comma = tokenizer.convert_tokens_to_ids(f"{COMMA}</w>")
    done: list[list[Weighted]] = []
    piece: list[Weighted] = []
    last_comma = -1
    for text, weight in weighted:
        if (text, weight) == BREAK:
            done.append(piece)
            piece, last_comma = [], -1
            continue
        for tokens in _tokens(text, tokenizer, vectors):
            if tokens == [comma]:
                last_comma = len(piece)
            elif len(piece) == PIECE and last_comma >= 0 and len(piece) - last_comma <= BACK:
                done.append(piece[: last_comma + 1])
                piece, last_comma = piece[last_comma + 1 :], -1
            if len(piece) + min(len(tokens), PIECE) > PIECE:
                done.append(piece)
                piece, last_comma = [], -1
            piece += [(token, weight) for token in tokens]
    if piece or not done:
        done.append(piece)
    return [part[start : start + PIECE] for part in done for start in range(0, max(len(part), 1), PIECE)]


def _tokens(text: str, tokenizer: Any, vectors: Mapping[str, Tensor]) -> Iterator[list[Token]]:
    """Give the tokens of a text one by one, and an embedding's vectors together."""
    longest = sorted(vectors, key=len, reverse=True)
    names = {name.lower(): name for name in longest}
    pattern = rf"(?<!\w)({'|'.join(map(re.escape, longest))})(?!\w)"
    for part in re.split(pattern, text, flags=re.IGNORECASE) if longest else [text]:
        name = names.get(part.lower())
        if name is not None:
            yield list(vectors[name])
        elif part.strip():
            yield from ([token] for token in tokenizer(part, add_special_tokens=False, truncation=False, verbose=False).input_ids)


def _run(model: LoadedModel, tokenizer: Any, encoder: Any, pieces: Sequence[Sequence[Weighted]]) -> tuple[Tensor, Tensor]:
    """Return (1, pieces * 77, width) and the pooled vector of the first piece."""
    begin, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    states, pooled = [], None
    for piece in pieces:
        left = PIECE - len(piece)
        tokens = [begin, *(token for token, _ in piece), end, *[pad] * left]
        with _replaced_inputs(encoder, tokens):
            ids = torch.tensor([[token if isinstance(token, int) else 0 for token in tokens]], device=encoder.device)
            result = encoder(ids, output_hidden_states=True)
        state = _state(model, encoder, result)
        if pooled is None:
            pooled = result[0] if model.pooled else state[:, -1]
        states.append(_emphasised(state, [1.0, *(weight for _, weight in piece), *[1.0] * (left + 1)]))
    assert pooled is not None
    return torch.cat(states, dim=1), pooled


def _emphasised(state: Tensor, weights: Sequence[float]) -> Tensor:
    """Multiply each token's vector, and bring the mean of all back to what it was, as the webui does."""
    if all(weight == 1 for weight in weights):
        return state
    changed = state * torch.tensor(weights, device=state.device, dtype=state.dtype)[None, :, None]
    return changed * (state.mean() / changed.mean())


def _state(model: LoadedModel, encoder: Any, result: Any) -> Tensor:
    state: Tensor = result.hidden_states[-2] if model.penultimate else result.last_hidden_state
    if model.penultimate and not model.pooled:
        state = getattr(encoder, "text_model", encoder).final_layer_norm(state)
    return state


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
