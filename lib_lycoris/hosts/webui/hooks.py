"""Hooks into a generation: step changes, model switches (refiner), start and end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from .text_steps import TextSteps

KEY = "lib_lycoris"  # who we are to modules.patches


class Steps:
    """Counts the sampling steps of one pass.

    The webui's own number lags by one and its denoiser counts model calls, of which samplers of the second order make two a step. For the
    others the steps done are told by what samplers report after each; some make more than one call in a step.
    """

    def __init__(self) -> None:
        self.done = 0

    def begin(self, call: int, multiplier: int) -> int:
        """Return the step, from 0, that the model call with this number belongs to."""
        if call == 0:
            self.done = 0
        return call // multiplier if multiplier > 1 else self.done


def start_hooks(
    steps: Steps, text_steps: TextSteps, silent: Callable[[], AbstractContextManager[None]], replan: Callable[[], None]
) -> None:
    """Install the hooks that only matter while networks are active; at the first tag, and once a process.

    steps: is kept up to date; text_steps: wraps the encoder of prompts; silent: a context in which no network acts; replan: called after a
    change of the model.
    """
    from modules import prompt_parser, sd_models, sd_samplers_common

    def empty_prompt(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_empty_cond(*args: Any, **kwargs: Any) -> Any:
            with silent():
                return original(*args, **kwargs)

        return get_empty_cond

    def model_change(original: Callable[..., Any]) -> Callable[..., Any]:
        def reload_model_weights(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            replan()
            return result

        return reload_model_weights

    def step_done(original: Callable[..., Any]) -> Callable[..., Any]:
        def callback_state(sampler: Any, state: Any) -> Any:
            steps.done = int(state["i"]) + 1
            return original(sampler, state)

        return callback_state

    _wrap(prompt_parser, "get_learned_conditioning", text_steps.around)
    _wrap(sd_models, "get_empty_cond", empty_prompt)
    _wrap(sd_models, "reload_model_weights", model_change)
    _wrap(sd_samplers_common.Sampler, "callback_state", step_done)


def _wrap(owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a function of the webui by one around it, once; not every webui has each of them, or calls it."""
    from modules import patches

    if hasattr(owner, name) and patches.original(KEY, owner, name) is None:
        patches.patch(KEY, owner, name, around(getattr(owner, name)))
