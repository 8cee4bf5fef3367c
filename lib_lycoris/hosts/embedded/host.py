"""The host that we bring ourselves: a diffusers pipeline, for the command line and the standalone app."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from threading import Event, Lock
from typing import Any

import torch
from torch import Tensor

from ...demo import NETWORKS
from ...errors import HostError, LycorisError
from ...models import BaseModel
from ...networks import Network
from ...networks.hashes import model_hash, short
from ...patching import Activation, Patcher, Report
from ...prompt import Presets, PromptPlan, find_tags, near_misses, plan_negative, plan_prompt
from ...tools.jobs.devices import check_device
from ...wording import counted
from ..fitting import apply_fitting, base_weight
from ..infotext import infotext
from ..library.cache import KEPT_MIB
from ..library.facts import stamp_of
from ..library.library import Library
from ..library.model_hash import model_file_hash
from ..memory import memory_in_use
from ..protocol import GeneratedImage, GenerationProgress, GenerationRequest, TagsRefused
from ..session import Plan, ResolvedTag, Session
from .conditioning import TextNetwork, conditionings
from .demo import ABOUT, EXAMPLE, demo_model
from .demo import NAME as DEMO
from .folders import data_folder, kept_folder, own_networks
from .models import LoadedModel, load_model
from .pipelines import WholePipeline
from .sampling import sample
from .text import usable
from .tiny import tiny_model

TAGS = ("lyco", "lora")  # nothing else here understands <lora:...>
LARGEST_SEED = 2**32 - 1
MOST_STEPS = 999  # the schedules have 1000 training steps, and begin one in


class EmbeddedHost:
    """A Stable Diffusion pipeline with networks from folders."""

    name = "embedded"

    def __init__(self, model: LoadedModel, folders: Sequence[Path], data: Path | None = None) -> None:
        self.data = data  # for what can be made again; None: nothing is kept
        self.session = Session(Library(folders), Presets.default)
        self._hashes: dict[tuple[Path, tuple[int, int]], str] = {}
        self._busy = Lock()
        self.use(model)

    def use(self, model: LoadedModel) -> None:
        """Make images with this model from now on."""
        with self._busy:
            self.model, self.patcher = model, Patcher(model.parts())
            self._stamp = _stamp(model.file) if model.file is not None else None
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
        places = [data] if data is not None else [data_folder(), kept_folder()]  # the first: where older versions kept networks
        folders = [networks] if networks is not None else [own for own in map(own_networks, places) if own.is_dir()]
        if ckpt is not None:
            return cls(load_model(ckpt, place, torch.float16 if place.type == "cuda" else torch.float32), folders, data or data_folder())
        return cls(demo_model(place), [NETWORKS, *folders], data or data_folder())

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

    @property
    def example(self) -> str:
        """A prompt without tags that suits the model."""
        return EXAMPLE if self.model.name == DEMO else "a castle on a hill"

    def about(self) -> str:
        """Return one sentence on the model that is loaded."""
        where = next(self.model.main.parameters()).device
        about = f"{self.model.name} ({self.base.label}) on {where}, {counted(len(self.library.files), 'network')}"
        return f"{about}. {ABOUT}" if self.model.name == DEMO else about

    def memory(self) -> str:
        """Return how much memory is in use."""
        return memory_in_use(next(self.model.main.parameters()).device)

    @property
    def library(self) -> Library:
        """The network files that tags can name."""
        return self.session.library

    def samplers(self) -> Sequence[str]:
        """Return the names of the samplers."""
        return list(self.model.samplers)

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
        request, unfollowed = self.model.settled(request)
        _check(request, self.samplers())
        seed = request.seed if request.seed >= 0 else random.SystemRandom().randint(0, LARGEST_SEED)
        with self._busy, ThreadPoolExecutor(1) as beside, torch.inference_mode():
            prompt = plan_prompt(request.prompt, TAGS, request.steps)
            plan = self._plan(request, prompt, seed)
            with self._applied(plan) as report:
                applied = plan.take(report, request.steps)
                if request.strict and plan.refused:
                    raise TagsRefused(plan.refused)
                model_hash = beside.submit(self._model_hash)  # seconds, where the file is large
                image, problems = self._draw(request, prompt, plan, seed, progress or (lambda _: None), cancel or Event())
        hashes = {one.network.name: digest for one in plan.chosen if (digest := self._hash(one, plan.problems))}
        text = infotext(request, seed, self.model.name, hashes, model_hash.result())
        return GeneratedImage(image, text, seed, applied, tuple(dict.fromkeys(plan.problems + report.problems + unfollowed + problems)))

    @contextmanager
    def _applied(self, plan: Plan) -> Iterator[Report]:
        try:
            yield self.apply(plan.activations)
        finally:
            self.patcher.pause()  # the next image mostly asks for the same
            self.session.cache.end_run(KEPT_MIB)

    def _plan(self, request: GenerationRequest, prompt: PromptPlan, seed: int) -> Plan:
        """Return what a prompt's tags come to; whatever is wrong with one leaves that one out, with a sentence."""
        plan = self.session.plan(prompt.tags, lambda: (self.patcher, None), seed)
        missed = near_misses(find_tags(request.prompt, TAGS)[0], TAGS)
        plan.problems[:0] = [miss.sentence for miss in missed]
        plan.refused[:0] = [miss.sentence for miss in missed if miss.ours]
        words, tags = find_tags(request.negative, TAGS)
        if tags or any(miss.ours for miss in near_misses(words, TAGS)):
            plan.problems.append("a tag in the negative prompt does nothing; write it in the prompt, its strength may be negative")
        return plan

    def _hash(self, one: ResolvedTag, problems: list[str]) -> str:
        """Return the hash of a network as it was read; none, with a sentence, where its file is another one meanwhile."""
        path, stored = one.network.path, one.network.metadata.get("sshs_model_hash")
        if stored:
            return short(stored)
        key = (path, one.stamp)
        if key not in self._hashes:
            try:
                digest = short(model_hash(path))
            except (OSError, LycorisError):
                digest = ""
            if _stamp(path) != one.stamp:
                problems.append(f"{path.name} was changed or removed after it was read, so the image's text has no hash of it")
                return ""
            self._hashes[key] = digest
        return self._hashes[key]

    def _model_hash(self) -> str:
        """Return the hash of the model's file, none of one that is another since the model was loaded."""
        file = self.model.file
        if file is None or self._stamp is None or _stamp(file) != self._stamp:
            return ""
        try:
            return model_file_hash(file, self.data)
        except OSError:  # taken away meanwhile
            return ""

    def _words(self, network: Network, problems: list[str]) -> dict[str, Any]:
        """Return the words that a network brings; one for a text encoder of another width is reported."""
        fitting = {word: parts for word, parts in network.embeddings.items() if usable(self.model, parts)}
        others = [word for word in network.embeddings if word not in fitting]
        problems += [f'{network.name}: its word "{word}" is for a text encoder of another width' for word in others]
        return fitting

    def _draw(
        self,
        request: GenerationRequest,
        prompt: PromptPlan,
        plan: Plan,
        seed: int,
        progress: Callable[[GenerationProgress], None],
        cancel: Event,
    ) -> tuple[Any, list[str]]:
        def go_to(step: int) -> None:
            self.step(step, request.steps)

        networks = [TextNetwork(one.tag, one.strength, self._words(one.network, plan.problems)) for one in plan.chosen]
        negative = plan_negative(find_tags(request.negative, TAGS)[0], request.steps)
        progress(GenerationProgress(0, request.steps))
        if isinstance(self.model, WholePipeline):
            return self.model.draw(request, prompt, negative[0], seed, go_to, progress, cancel)
        steps = conditionings(self.model, prompt, negative, networks, go_to)
        return sample(self.model.pipe, request, seed, steps, go_to, progress, cancel)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return the time and size of a file; None where it cannot be seen."""
    try:
        return stamp_of(path)
    except OSError:
        return None


def _check(request: GenerationRequest, samplers: Sequence[str]) -> None:
    if not 1 <= request.steps <= MOST_STEPS:
        raise HostError(f"{request.steps} steps cannot be made; give 1 to {MOST_STEPS}")
    if not isfinite(request.cfg):
        raise HostError(f"a guidance (cfg) of {request.cfg} cannot be followed; give a number, such as 7")
    for side in (request.width, request.height):
        if side % 8 or not 64 <= side <= 4096:
            raise HostError(f"a side of {side} pixels cannot be made; give a multiple of 8 from 64 to 4096")
    if request.sampler not in samplers:
        raise HostError(f'there is no sampler "{request.sampler}" for this model; there are {", ".join(samplers)}')
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
    check_device(name)
    return torch.device(name)
