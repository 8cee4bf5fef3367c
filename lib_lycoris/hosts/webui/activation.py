"""<lyco:...> in the webui: what it calls when a prompt has such tags, once for each batch and each pass."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

from ...errors import HostError
from ...prompt import Tag, TagError, parse_tag, text_spans
from ..session import Plan
from . import comments
from .conds import Conds
from .hooks import Steps, start_hooks
from .host import PassRequest, WebuiHost, host
from .prompts import about_batch, about_near_misses, about_regions, pass_steps, tags_of, with_brackets, written
from .text_steps import TextSteps


class LycoNetwork:
    """The webui's extra network called ``lyco``."""

    name = "lyco"

    def __init__(self, webui: WebuiHost | None = None) -> None:
        self.host = webui or host()
        self.conds = Conds()
        self.steps = Steps()
        self.text_steps = TextSteps(self.host.step, lambda: self.host.suspended or self.host.wanted is None)
        self._run: weakref.ref[Any] | None = None

    def activate(self, p: Any, params_list: Sequence[Any]) -> None:
        """Put on exactly the networks of these tags; called with none for every prompt without tags."""
        if self.host.suspended:
            return
        try:
            self._activate(p, params_list)
        except Exception as error:
            self.host.clear()
            comments.tell(p, [f"no network was applied: {error!r}"])
            raise  # the webui writes the trace to its console, and makes the image

    def _activate(self, p: Any, params_list: Sequence[Any]) -> None:
        hires = is_hires(p, params_list)
        told = self._begin(p, hires)
        texts = tuple(":".join(str(item) for item in params.items) for params in params_list)
        self.text_steps.forget()
        if not params_list:
            self.host.clear()
            self.conds.check(p, hires, texts, "")
            self._tell(p, told, Plan())
            return
        self._run = weakref.ref(p)
        start_hooks(self.steps, self.text_steps, self.host.silent, self.replan)
        tags, problems = _read(params_list)
        problems += filter(None, [about_regions(p)])
        steps, calls = pass_steps(p, hires)
        tags = with_brackets(tags, written(p, hires), steps, calls, pass_steps(p, False)[0] if hires else 0)
        done = self.host.put_on(PassRequest(tags, _seed(p), steps, hires))
        self.text_steps.prepare(text_spans([one.strength for one in done.chosen], steps), steps, calls)
        self.conds.check(p, hires, texts, done.digest)
        self._tell(p, told + problems, done)

    def _begin(self, p: Any, hires: bool) -> list[str]:
        """Forget what was said of the images before, and return what the prompts as they are written call for."""
        if not hires:
            comments.begin(p)
        prompts = written(p, hires)
        batch = about_batch(prompts)
        if batch is not None:
            comments.note_tags(p, tags_of(prompts[0]))
        return [*about_near_misses(prompts), *([] if batch is None else [batch])]

    def deactivate(self, p: Any) -> None:
        """End a run: nothing acts afterwards, also where the webui would not say so again."""
        comments.tell(p, self.host.webui.guard.take_failures())
        self.host.pause()
        self._run = None

    def replan(self) -> None:
        """Put the plan on the model that the webui has changed to in the middle of a run, such as the refiner; raise nothing."""
        if self.host.wanted is None or not self.host.model_changed():
            return
        p = self._run() if self._run is not None else None
        try:
            self._tell(p, [], self.host.put_on(self.host.wanted))
        except Exception as error:  # noqa: BLE001 - the webui is between two steps, and would lose the image
            self.host.clear()
            self._tell(p, [f"the networks were not applied to the model that the webui changed to: {error!r}"], Plan())

    def before_call(self, params: Any) -> None:
        """Take notice of a model call that comes next; the webui's callback ``on_cfg_denoiser``."""
        if self.host.wanted is None:
            return
        self.replan()  # a model that was changed in a way that no hook of ours saw
        denoiser = params.denoiser
        steps = int(getattr(denoiser, "steps", 0) or params.total_sampling_steps or 1)
        calls = int(getattr(denoiser, "total_steps", 0) or steps)  # the webui says it so: twice the steps for samplers of the second order
        self.host.step(self.steps.begin(int(denoiser.step), calls // steps), steps)

    def _tell(self, p: Any, problems: list[str], done: Plan) -> None:
        sentences = list(dict.fromkeys(problems + done.problems))
        self.host.report(sentences)
        if p is not None:
            comments.tell(p, sentences)
            comments.note_hashes(p, done.networks)
            p.lyco_applied = tuple(done.networks)


class Refusal:
    """The extra network called ``lyco`` of a webui where networks cannot be put on the model: each image says so."""

    name = LycoNetwork.name

    def __init__(self, webui: WebuiHost) -> None:
        self.host = webui

    def activate(self, p: Any, params_list: Sequence[Any], *_: Any, **__: Any) -> None:
        """Say in the image's text and on the console that these tags do nothing; SD.Next says the step, and shows no comments."""
        if not params_list:
            p.extra_generation_params.pop(comments.PROBLEMS, None)
            return
        try:
            self.host.webui.patcher(self.host.webui.current())
        except HostError as error:
            self.host.report([str(error)])
            p.extra_generation_params[comments.PROBLEMS] = str(error)

    def deactivate(self, p: Any, *_: Any, **__: Any) -> None:
        """End a run, in which nothing was done."""


def is_hires(p: Any, params_list: Sequence[Any]) -> bool:
    """Tell whether tags are those of the hires pass.

    With --medvram the webui activates them early, for the text encoder, and does not say so: there the parsed tags are the hires prompt's.
    """
    if getattr(p, "is_hr_pass", False):
        return True
    theirs = [params for found in (getattr(p, "hr_extra_network_data", None) or {}).values() for params in found]
    return bool(params_list) and any(params_list[0] is params for params in theirs)


def _read(params_list: Sequence[Any]) -> tuple[tuple[Tag, ...], list[str]]:
    tags: list[Tag] = []
    problems: list[str] = []
    for params in params_list:
        try:
            tags.append(parse_tag([str(item) for item in params.items], getattr(params, "kind", "lyco")))
        except TagError as error:
            problems.append(str(error))
    return tuple(tags), problems


def _seed(p: Any) -> int:
    seeds = getattr(p, "seeds", None) or getattr(p, "all_seeds", None)
    return int(seeds[0]) if seeds else int(getattr(p, "seed", 0) or 0)


@cache
def network() -> LycoNetwork:
    """Return the one network of this process; it outlives reloads of the UI, as the hooks that know it do."""
    return LycoNetwork()
