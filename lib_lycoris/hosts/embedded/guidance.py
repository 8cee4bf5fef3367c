"""c' = u + Σ wᵢ (cᵢ - u): the parts of a prompt with AND between them, each step with its own conditioning, inside a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .conditioning import Conditioning
from .text import Encoded


class Guidance:
    """While it is entered, the UNet reads what guides the current step, whatever the pipeline hands it.

    The pipeline guides by one prompt against the negative one; a combination of several is given to it as if it were that one. Texts of
    unequal length are run apart, as the webui does: padding would change what the shorter one means.
    """

    def __init__(self, unet: Any, steps: Sequence[Conditioning]) -> None:
        self.unet, self.steps = unet, steps
        self.step = 0
        self._forward: Any = None

    def __enter__(self) -> Guidance:
        """Stand in for the UNet's forward."""
        self._forward = self.unet.forward
        self.unet.forward = self._guided
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the UNet as it was."""
        del self.unet.forward

    def arguments(self) -> dict[str, Tensor]:
        """Return what the pipeline wants to be given; the UNet never reads it."""
        first = self.steps[0].parts[0][0]
        found = {"prompt_embeds": first.state, "negative_prompt_embeds": first.state}
        if first.pooled is not None:
            found.update(pooled_prompt_embeds=first.pooled, negative_pooled_prompt_embeds=first.pooled)
        return found

    def _guided(self, sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, **others: Any) -> tuple[Tensor]:
        """Return one row, or for a pipeline that guides two: without the prompt, and with it."""
        now = self.steps[min(self.step, len(self.steps) - 1)]
        others["return_dict"] = False
        two = sample.shape[0] == 2
        plain = len(now.parts) == 1 and now.parts[0][1] == 1
        texts = [part for part, _ in now.parts]
        outputs = self._outputs(sample[:1], timestep, texts if plain and not two else [now.negative, *texts], others)
        if plain:
            return (torch.cat(outputs),)
        without = outputs[0]
        combined = without + sum(weight * (output - without) for output, (_, weight) in zip(outputs[1:], now.parts))
        return (torch.cat([without, combined]) if two else combined,)

    def _outputs(self, sample: Tensor, timestep: Any, texts: Sequence[Encoded], others: dict[str, Any]) -> list[Tensor]:
        """Run the UNet on one sample with each of several texts; those of one length together."""
        found: dict[int, Tensor] = {}
        for length in dict.fromkeys(text.state.shape[1] for text in texts):
            places = [place for place, text in enumerate(texts) if text.state.shape[1] == length]
            states = torch.cat([texts[place].state for place in places])
            rows = {**others, "added_cond_kwargs": _added(others.get("added_cond_kwargs"), [texts[place] for place in places])}
            output = self._forward(sample.expand(len(places), -1, -1, -1), timestep, encoder_hidden_states=states, **rows)[0]
            found.update(zip(places, output.split(1)))
        return [found[place] for place in range(len(texts))]


def _added(given: dict[str, Tensor] | None, texts: Sequence[Encoded]) -> dict[str, Tensor] | None:
    """Return SDXL's further conditions, a row for each text: its pooled vector, and the sizes that the pipeline gave."""
    if not given:
        return given
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return {**given, "text_embeds": torch.cat(pooled), "time_ids": given["time_ids"][:1].expand(len(texts), -1)}
