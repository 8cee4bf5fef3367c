"""The host that we bring ourselves: a diffusers pipeline, for the command line and the standalone app."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from threading import Event, Lock
from typing import Any

import torch
from torch import Tensor

from ...demo import NETWORKS
from ...errors import HostError
from ...models import BaseModel
from ...networks import Network
from ...networks.hashes import model_hash, short
from ...patching import Activation, Patcher, Report
from ...prompt import Presets, Tag, find_tags, unread_tags
from ..fitting import apply_fitting, base_weight
from ..infotext import infotext
from ..library.cache import KEPT_MIB
from ..library.library import Library
from ..protocol import GeneratedImage, GenerationCancelled, GenerationProgress, GenerationRequest
from ..session import Plan, Session
from .demo import ABOUT, data_folder, demo_model, own_networks
from .demo import NAME as DEMO
from .models import LoadedModel, load_model
from .preview import Preview
from .samplers import SAMPLERS, scheduler_for
from .text import encode, usable
from .tiny import tiny_model

TAGS = ("lyco", "lora")  # nothing else here understands <lora:...>
LARGEST_SEED = 2**32 - 1
MOST_STEPS = 999  # the schedules have 1000 training steps, and begin one in


class EmbeddedHost:
    """A Stable Diffusion pipeline with networks from folders."""

    name = "embedded"

    def __init__(self, model: LoadedModel, folders: Sequence[Path]) -> None:
        self.session = Session(Library(folders), Presets.default)
        self._hashes: dict[tuple[Path, int], str] = {}
        self._busy = Lock()
        self.use(model)

    def use(self, model: LoadedModel) -> None:
        """Make images with this model from now on."""
        with self._busy:
            self.model, self.patcher = model, Patcher(model.parts())
            self.session = Session(self.session.library, self.session.presets)

    @classmethod
    def open(
        cls, ckpt: Path | None = None, networks: Path | None = None, device: str | None = None, data: Path | None = None
    ) -> EmbeddedHost:
        """Load a checkpoint, or the demo model with its networks; raise HostError with a sentence.

        Without a folder of networks, those that our tools have made in ``data`` are there too.
        """
        if networks is not None and not networks.is_dir():
            raise HostError(f"there is no folder {networks}; give --networks a folder with network files")
        place = _device(device)
        _quiet()
        own = own_networks(data or data_folder())
        folders = [networks] if networks is not None else [own] if own.is_dir() else []
        if ckpt is not None:
            return cls(load_model(ckpt, place, torch.float16 if place.type == "cuda" else torch.float32), folders)
        return cls(demo_model(place), [NETWORKS, *folders])

    @classmethod
    def tiny(cls) -> EmbeddedHost:
        """Return the tiny random model on the CPU, without any network."""
        return cls(tiny_model(torch.device("cpu")), [])

    @classmethod
    def detect(cls) -> bool:
        """Tell that this host never is the program around us: it is opened on purpose."""
        return False

    @property
    def base(self) -> BaseModel:
        """The pipeline's family and canonical parameter names."""
        return self.patcher.base

    @property
    def identity(self) -> str:
        """The checkpoint's name and family."""
        return f"{self.model.family}:{self.model.name}"

    @property
    def size(self) -> int:
        """The side of a square image that suits the model, in pixels."""
        return self.model.size

    @property
    def cfg(self) -> float:
        """The guidance that suits the model."""
        return self.model.cfg

    def about(self) -> str:
        """Return one sentence on the model that is loaded."""
        where = next(self.model.pipe.unet.parameters()).device
        about = f"{self.model.name} ({self.base.label}) on {where}, {len(self.library.files)} networks"
        return f"{about}. {ABOUT}" if self.model.name == DEMO else about

    @property
    def library(self) -> Library:
        """The network files that tags can name."""
        return self.session.library

    def samplers(self) -> Sequence[str]:
        """Return the names of the samplers."""
        return list(SAMPLERS)

    def folders(self) -> Sequence[Path]:
        """Return the folders that hold network files."""
        return self.library.folders

    def networks(self) -> Sequence[str]:
        """Return the names that a tag can use, after a fresh look at the folders."""
        self.library.refresh()
        return self.library.names()

    def weight(self, parameter: str) -> Tensor:
        """Return the base weight under a canonical parameter name."""
        return base_weight(self.patcher, parameter, self.model.name)

    def apply(self, activations: Sequence[Activation]) -> Report:
        """Put these networks on; one that does not fit is left out with a sentence in the report's notes."""
        return apply_fitting(self.patcher, activations)

    def step(self, step: int, steps: int) -> None:
        """Say which sampling step (from 0) comes next."""
        self.patcher.step(step, steps)

    def clear(self) -> None:
        """Take all networks off, and forget them."""
        self.patcher.restore()
        self.session.cache.forget()

    def report(self, sentences: Sequence[str]) -> None:
        """Do nothing: what there is to tell comes back with the image."""

    def generate(
        self, request: GenerationRequest, progress: Callable[[GenerationProgress], None] | None = None, cancel: Event | None = None
    ) -> GeneratedImage:
        """Make one image; raise HostError with a sentence if it cannot be made, GenerationCancelled if ``cancel`` was set."""
        _check(request)
        seed = request.seed if request.seed >= 0 else random.SystemRandom().randint(0, LARGEST_SEED)
        with self._busy, torch.inference_mode():
            text, plan = self._plan(request.prompt, seed)
            negative, misplaced = find_tags(request.negative, TAGS)
            if misplaced:
                plan.problems.append("a tag in the negative prompt does nothing; write it in the prompt, its strength may be negative")
            with self._applied(plan) as report:
                image = self._draw(request, text, plan, negative.strip(), seed, progress or (lambda _: None), cancel or Event())
        applied = tuple(f"{item.name}: {item.matched} parameters changed" for item in report.networks)
        hashes = {a.network.name: self._hash(a.network) for a in plan.activations}
        written = infotext(request, seed, self.model.name, hashes)
        return GeneratedImage(image, written, seed, applied, tuple(dict.fromkeys(plan.problems + report.problems)))

    @contextmanager
    def _applied(self, plan: Plan) -> Iterator[Report]:
        try:
            yield self.apply(plan.activations)
        finally:
            self.patcher.pause()  # the next image mostly asks for the same
            self.session.cache.end_run(KEPT_MIB)

    def _plan(self, prompt: str, seed: int) -> tuple[str, Plan]:
        """Return a prompt's words, and what its tags come to; whatever is wrong with one leaves that one out, with a sentence."""
        text, tags = find_tags(prompt, TAGS)
        plan = self.session.plan([tag for tag in tags if isinstance(tag, Tag)], lambda: (self.patcher, None), seed)
        plan.problems[:0] = [*unread_tags(text, TAGS), *(str(tag) for tag in tags if not isinstance(tag, Tag))]
        return text.strip(), plan

    def _hash(self, network: Network) -> str:
        stored = network.metadata.get("sshs_model_hash")
        if stored:
            return short(stored)
        key = (network.path, network.path.stat().st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = short(model_hash(network.path))
        return self._hashes[key]

    def _embeddings(self, plan: Plan) -> dict[str, Any]:
        """Return the words that the active networks bring; one for a text encoder of another width is reported."""
        embeddings: dict[str, Any] = {}
        for activation in plan.activations:
            for word, parts in activation.network.embeddings.items():
                if usable(self.model, parts):
                    embeddings[word] = parts
                else:
                    plan.problems.append(f'{activation.network.name}: its word "{word}" is for a text encoder of another width')
        return embeddings

    def _draw(
        self,
        request: GenerationRequest,
        text: str,
        plan: Plan,
        negative: str,
        seed: int,
        progress: Callable[[GenerationProgress], None],
        cancel: Event,
    ) -> Any:
        pipe = self.model.pipe
        pipe.scheduler = scheduler_for(pipe.scheduler, request.sampler)
        pipe.set_progress_bar_config(disable=True)
        self.step(0, request.steps)
        embeddings = self._embeddings(plan)
        preview, started = Preview(pipe), time.monotonic()
        progress(GenerationProgress(0, request.steps))

        def after(_pipe: Any, done: int, _timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
            if cancel.is_set():
                raise GenerationCancelled
            done += 1
            self.step(done, request.steps)
            rate = done / max(time.monotonic() - started, 1e-6)
            small = preview.picture() if done < request.steps else None
            progress(GenerationProgress(done, request.steps, rate, max(request.steps - done, 0) / rate, small))
            return state

        words = encode(self.model, text, negative, embeddings)
        noise = torch.Generator("cpu").manual_seed(seed)  # on the CPU, so that a seed means the same on every device
        pixels = pipe(
            **words.arguments(), num_inference_steps=request.steps, guidance_scale=request.cfg, width=request.width,
            height=request.height, generator=noise, callback_on_step_end=after, output_type="pt",
        ).images  # fmt: skip
        if not bool(torch.isfinite(pixels).all()):
            plan.problems.append("the model's numbers ran over: what is black in the image is NaN; try smaller strengths")
        return pipe.image_processor.postprocess(torch.nan_to_num(pixels) * 2 - 1, output_type="pil")[0]


def _check(request: GenerationRequest) -> None:
    if not 1 <= request.steps <= MOST_STEPS:
        raise HostError(f"{request.steps} steps cannot be made; give 1 to {MOST_STEPS}")
    if not isfinite(request.cfg):
        raise HostError(f"a guidance (cfg) of {request.cfg} cannot be followed; give a number, such as 7")
    for side in (request.width, request.height):
        if side % 8 or not 64 <= side <= 4096:
            raise HostError(f"a side of {side} pixels cannot be made; give a multiple of 8 from 64 to 4096")
    if request.sampler not in SAMPLERS:
        raise HostError(f'there is no sampler "{request.sampler}"; there are {", ".join(SAMPLERS)}')
    if request.seed > LARGEST_SEED:
        raise HostError(f"the seed {request.seed} is too large; the largest is {LARGEST_SEED}")


def _quiet() -> None:
    """Keep the libraries' advice to programmers off the user's screen; their errors still come as exceptions."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise HostError(f'there is no device "{name}" here; leave --device out, or give cpu, cuda, cuda:1 or mps') from error
    return device
