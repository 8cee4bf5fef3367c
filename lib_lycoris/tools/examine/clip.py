"""CLIP's text encoders on single words, with and without a network, layer by layer: each weight is read once and kept for no longer.

A word stands behind the start mark alone. The encoder is causal, so neither the end mark nor padding changes what the word becomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ...models import BaseModel, parameter, rows, split_parameter
from ...models.family import Component
from ...records import dataclass
from ..extract.difference import Reader
from ..files.networks.compose import placed
from ..files.networks.network_file import Patch, delta_on

TOKENS = "text_model.embeddings.token_embedding"
HEAD = 64  # channels of a head in all released ones
FEW_HEADS = 4  # of one narrower than any of those, the demo model's
Both = tuple[Tensor, Tensor]  # without and with the network


class Weights:
    """Parameters of a checkpoint as they are, and as a network makes them."""

    def __init__(self, reader: Reader, patches: Sequence[Patch], device: str) -> None:
        self.reader, self.base, self.device = reader, reader.checkpoint.base, device
        self._patches: dict[str, list[Patch]] = {}
        for patch in patches:
            self._patches.setdefault(patch.name.partition("[")[0], []).append(patch)

    def both(self, name: str) -> Both:
        """Return a parameter without and with the network, in float32."""
        module, leaf, _ = split_parameter(name)
        info = self.base.layers[module]
        shape = tuple(info.shape) if leaf == "weight" else tuple(info.shape[:1])
        weight = self.reader.read(name, shape)
        found = self._patches.get(name)
        if not found:
            plain = weight.to(self.device)
            return plain, plain
        parts = {patch.part: delta_on(patch, self.base, self._part) for patch in found}
        changed = weight + placed(parts, shape, tuple(info.shape))
        return weight.to(self.device), changed.to(self.device)

    def _part(self, name: str, shape: tuple[int, ...]) -> Tensor:
        whole, _, part = name.partition("[")
        module, leaf, _ = split_parameter(whole)
        full = tuple(self.base.layers[module].shape)
        weight = self.reader.read(whole, full if leaf == "weight" else full[:1])
        if part == "T]":
            return weight.T
        return torch.cat([weight[piece] for piece in rows(part.rstrip("]"), full)]) if part else weight

    def changes(self, prefix: str) -> bool:
        """Tell whether the network changes anything of a component."""
        return any(name.startswith(prefix) for name in self._patches)


@dataclass(frozen=True, eq=False)
class Encoder:
    """One of CLIP's text encoders in a checkpoint, its layers by the names that transformers gives them."""

    component: Component
    places: Mapping[str, tuple[str, str | None]]  # name -> (canonical module, part)
    width: int
    tokens: int
    layers: int
    is_open_clip: bool

    def read(self, weights: Weights, name: str, leaf: str = "weight") -> Both:
        """Return a parameter, of a fused one the part that the name stands for."""
        module, part = self.places[name]
        pair = weights.both(parameter(module, leaf))
        if part in (None, "T"):
            return (pair[0].T, pair[1].T) if part == "T" else pair
        pieces = rows(part, tuple(weights.base.layers[module].shape))
        return torch.cat([pair[0][p] for p in pieces]), torch.cat([pair[1][p] for p in pieces])


def encoders(base: BaseModel) -> list[Encoder]:
    """Return the text encoders of a model that are CLIP's, in its order."""
    found: dict[str, dict[str, tuple[str, str | None]]] = {}
    components = {}
    for module in base.layers:
        component = base.component_of(module)
        if component is not None and component.key != "unet":
            components[component.key] = component
            found.setdefault(component.key, {}).update({alias.path: (module, alias.part) for alias in base.aliases(module)})
    made = []
    for key, places in found.items():
        if TOKENS in places:
            tokens, width = base.layers[places[TOKENS][0]].shape
            count = sum(f"text_model.encoder.layers.{number}.mlp.fc1" in places for number in range(64))
            made.append(Encoder(components[key], places, width, tokens, count, "resblocks" in places[f"{_layer(0)}.mlp.fc1"][0]))
    return made


def hidden_states(encoder: Encoder, weights: Weights, tokens: Tensor, stop: int) -> Iterator[Both]:
    """Yield the states of the words' own places (words, width) without and with the network, layer by layer, to ``stop`` before the last.

    tokens: their numbers; the first one is the start mark, whose states come along as the first row.
    """
    table, places = encoder.read(weights, TOKENS), encoder.read(weights, "text_model.embeddings.position_embedding")
    states = [
        one[tokens.to(one.device)] + torch.cat((where[:1], where[1:2].expand(len(tokens) - 1, -1))) for one, where in zip(table, places)
    ]
    for number in range(encoder.layers - stop):
        states = _block(encoder, weights, number, states)
        yield states[0], states[1]


def normed(encoder: Encoder, weights: Weights, states: Both) -> Both:
    """Return states behind the encoder's last norm."""
    return _norm(encoder, weights, "text_model.final_layer_norm", states)


def _layer(number: int) -> str:
    return f"text_model.encoder.layers.{number}"


def _block(encoder: Encoder, weights: Weights, number: int, states: Sequence[Tensor]) -> list[Tensor]:
    name = _layer(number)
    inner = _norm(encoder, weights, f"{name}.layer_norm1", states)
    q, k, v = (_linear(encoder, weights, f"{name}.self_attn.{letter}_proj", inner) for letter in "qkv")
    heads = encoder.width // HEAD if encoder.width >= 512 else FEW_HEADS
    mixed = [_attention(*one, heads) for one in zip(q, k, v)]
    states = [old + new for old, new in zip(states, _linear(encoder, weights, f"{name}.self_attn.out_proj", mixed))]
    wide = _linear(encoder, weights, f"{name}.mlp.fc1", _norm(encoder, weights, f"{name}.layer_norm2", states))
    active = [F.gelu(one) if encoder.is_open_clip else one * torch.sigmoid(1.702 * one) for one in wide]
    return [old + new for old, new in zip(states, _linear(encoder, weights, f"{name}.mlp.fc2", active))]


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Return what each word takes of the start mark (the first row) and of itself; the start mark sees itself alone."""
    split = [one.unflatten(1, (heads, -1)) for one in (q, k, v)]
    scale = split[0].shape[2] ** -0.5
    start, own = (split[0] * split[1][:1]).sum(2) * scale, (split[0] * split[1]).sum(2) * scale
    share = torch.softmax(torch.stack((start, own)), 0)[..., None]
    mixed: Tensor = share[0] * split[2][:1] + share[1] * split[2]
    return mixed.flatten(1)


def _linear(encoder: Encoder, weights: Weights, name: str, states: Sequence[Tensor]) -> list[Tensor]:
    matrices, biases = encoder.read(weights, name), encoder.read(weights, name, "bias")
    return [F.linear(one, matrix, bias) for one, matrix, bias in zip(states, matrices, biases)]


def _norm(encoder: Encoder, weights: Weights, name: str, states: Sequence[Tensor]) -> Both:
    scales, biases = encoder.read(weights, name), encoder.read(weights, name, "bias")
    one, other = (F.layer_norm(state, state.shape[1:], scale, bias) for state, scale, bias in zip(states, scales, biases))
    return one, other
