"""Images for our pages in the webui: made by its own txt2img under its queue's lock, so that they never meet a running generation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from threading import Event, Thread
from typing import Any

from ...errors import HostError
from ..protocol import GeneratedImage, GenerationCancelled, GenerationProgress, GenerationRequest
from .comments import BETWEEN, PROBLEMS
from .host import host

LOOK = 0.1  # seconds between two looks at the webui's step
Tell = Callable[[GenerationProgress], None]


class WebuiGenerator:
    """The webui as a program that makes images; all that it does not say itself is the host's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(host(), name)

    def generate(self, request: GenerationRequest, progress: Tell | None = None, cancel: Event | None = None) -> GeneratedImage:
        """Make one image; raise HostError with a sentence if it cannot be made, GenerationCancelled if ``cancel`` was set."""
        from modules import call_queue

        with call_queue.queue_lock, _followed(request, progress or (lambda _: None), cancel or Event()):
            _check(cancel)
            p, processed = _run(request)
        _check(cancel)
        if not processed.images:
            raise HostError("the webui made no image; its console says why")
        problems = str(p.extra_generation_params.get(PROBLEMS, ""))
        applied = tuple(getattr(p, "lyco_applied", ()))
        infotext = processed.infotexts[0] if processed.infotexts else ""
        return GeneratedImage(processed.images[0], infotext, int(processed.seed), applied, tuple(filter(None, problems.split(BETWEEN))))

    def networks(self) -> Sequence[str]:
        """Return the names that a tag can use."""
        host().library.refresh()
        return host().library.names()

    def samplers(self) -> Sequence[str]:
        """Return the names of the webui's samplers."""
        from modules import sd_samplers

        return [str(name) for name in sd_samplers.visible_sampler_names()]

    def about(self) -> str:
        """Return one sentence on the model that is loaded."""
        webui = host().webui
        model = webui.current()
        return "no model is loaded yet" if model is None else f"{webui.label(model)} is loaded"

    def memory(self) -> str:
        """Return nothing: the webui shows it itself, below each image."""
        return ""

    cfg = 7.0  # the webui's own default
    example = "a castle on a hill"

    @property
    def size(self) -> int:
        """The side of a square image that suits the model, in pixels."""
        return host().webui.size(host().webui.current())


def _run(request: GenerationRequest) -> tuple[Any, Any]:
    """Run the webui's txt2img without scripts: other extensions have nothing to do with an image of ours."""
    from modules import processing, scripts, shared

    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model, prompt=request.prompt, negative_prompt=request.negative, seed=request.seed, steps=request.steps,
        width=request.width, height=request.height, cfg_scale=request.cfg, sampler_name=request.sampler,
        do_not_save_samples=True, do_not_save_grid=True,
    )  # fmt: skip
    p.scripts = scripts.ScriptRunner()  # of no scripts: reForge asks it for one of its own, whether it is there or not
    with closing(p):
        try:
            return p, processing.process_images(p)
        except (RuntimeError, ValueError, OSError) as error:  # not enough memory, a sampler that does not know this model
            raise HostError(f"the webui could not make the image: {error}") from error


@contextmanager
def _followed(request: GenerationRequest, progress: Tell, cancel: Event) -> Iterator[None]:
    """Tell the webui's steps while an image is made, and stop it when asked to: it looks for that at each step."""
    from modules import shared

    done = Event()
    shared.state.begin(job="lycoris")
    watcher = Thread(target=_watch, args=(shared.state, request.steps, progress, cancel, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        shared.state.end()


def _watch(state: Any, steps: int, progress: Tell, cancel: Event, done: Event) -> None:
    began, told = time.monotonic(), -1
    while not done.wait(LOOK):
        if cancel.is_set():
            state.interrupt()
        step = min(int(state.sampling_step), steps)
        if step != told:
            told = step
            rate = step / (time.monotonic() - began)
            progress(GenerationProgress(step, steps, rate, (steps - step) / rate) if step else GenerationProgress(0, steps))


def _check(cancel: Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise GenerationCancelled
