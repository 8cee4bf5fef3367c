"""One image: the pipeline's steps, with progress, previews, cancel, and numbers that ran over."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

import torch

from ..protocol import GenerationCancelled, GenerationProgress, GenerationRequest
from .conditioning import Conditioning
from .guidance import Guidance
from .preview import Preview
from .samplers import scheduler_for

RAN_OVER = "the model's numbers ran over: what is black in the image is NaN; try smaller strengths"


def sample(
    pipe: Any,
    request: GenerationRequest,
    seed: int,
    steps: Sequence[Conditioning],
    go_to: Callable[[int], None],
    progress: Callable[[GenerationProgress], None],
    cancel: Event,
) -> tuple[Any, list[str]]:
    """Return a PIL image and what went wrong with it.

    go_to: is told each step before it is made.

    Raises:
        GenerationCancelled: ``cancel`` was set; no image is made.
    """
    pipe.scheduler = scheduler_for(pipe.scheduler, request.sampler)
    pipe.set_progress_bar_config(disable=True)
    preview, started = Preview(pipe), time.monotonic()
    guidance = Guidance(pipe.unet, steps)
    go_to(0)

    def after(_pipe: Any, done: int, _timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
        if cancel.is_set():
            raise GenerationCancelled
        guidance.step = done = done + 1
        go_to(done)
        rate = done / max(time.monotonic() - started, 1e-6)
        small = preview.picture() if done < request.steps else None
        progress(GenerationProgress(done, request.steps, rate, max(request.steps - done, 0) / rate, small))
        return state

    noise = torch.Generator("cpu").manual_seed(seed)  # on the CPU, so that a seed means the same on every device
    with guidance:
        pixels = pipe(
            **guidance.arguments(), num_inference_steps=request.steps, guidance_scale=request.cfg, width=request.width,
            height=request.height, generator=noise, callback_on_step_end=after, output_type="pt",
        ).images  # fmt: skip
    problems = [] if bool(torch.isfinite(pixels).all()) else [RAN_OVER]
    return pipe.image_processor.postprocess(torch.nan_to_num(pixels) * 2 - 1, output_type="pil")[0], problems
