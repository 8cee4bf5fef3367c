"""What guides each step: the words that the prompt has there, encoded with the networks that are on there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ...prompt import PromptPlan, StrengthMap, Tag
from ...records import dataclass
from .models import LoadedModel
from .text import Encoded, encode


@dataclass(frozen=True)
class Conditioning:
    """What guides one step: the parts of the prompt with their weights, and the negative prompt."""

    parts: tuple[tuple[Encoded, float], ...]
    negative: Encoded


@dataclass(frozen=True)
class TextNetwork:
    """What the text encoders see of one network: its strengths there, and the words that it brings."""

    tag: Tag
    strength: StrengthMap
    words: Mapping[str, Mapping[str, Tensor]]

    def at(self, step: int, steps: int) -> tuple[float, float, bool]:
        """Return all that changes what a text is encoded to, at a step."""
        on = self.tag.during is None or self.tag.during[step]
        return self.strength.te.value(step, steps), self.strength.te2.value(step, steps), on


def conditionings(
    model: LoadedModel, plan: PromptPlan, negative: Sequence[str], networks: Sequence[TextNetwork], go_to: Callable[[int], None]
) -> list[Conditioning]:
    """Return what guides each step; a text is encoded once for each state of the networks, which ``go_to`` puts at a step."""
    steps = len(plan.parts)
    known: dict[Any, Encoded] = {}

    def encoded(text: str, step: int) -> Encoded:
        state = tuple(network.at(step, steps) for network in networks)
        if (text, state) not in known:
            words = {word: parts for network, (*_, on) in zip(networks, state) if on for word, parts in network.words.items()}
            go_to(step)
            known[text, state] = encode(model, text, words)
        return known[text, state]

    return [
        Conditioning(tuple((encoded(part.text, step), part.weight) for part in parts), encoded(negative[step], step))
        for step, parts in enumerate(plan.parts)
    ]
