"""A webui as a host: the networks of the prompt on the model that it computes with, whichever that is by now."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from ...errors import HostError
from ...models import BaseModel
from ...patching import Activation, Mode, Patcher, Report
from ...prompt import Presets, Tag
from ...records import dataclass
from ..fitting import apply_fitting, base_weight
from ..library.cache import KEPT_MIB, MIB
from ..library.library import Library
from ..session import Plan, Session
from .adapters import Adapter, adapter
from .embeddings import Words
from .folders import PresetFiles, data_folder, folders


@dataclass(frozen=True)
class PassRequest:
    """What one pass of a run asks for, kept so that it can be put on another model in the middle of the run."""

    tags: tuple[Tag, ...]
    seed: int
    steps: int
    hires: bool


class WebuiHost:
    """The webui that we run in."""

    def __init__(self, webui: Adapter) -> None:
        self.webui = webui
        self.name = webui.name
        self.session = Session(Library([]), PresetFiles(), _other_family)  # the library is filled when the command line is known to be read
        self.words = Words(webui)
        self.wanted: PassRequest | None = None
        self.suspended = False
        self._patcher: Patcher | None = None
        self._model: weakref.ref[Any] | None = None
        self._identity = ""
        self._shapes: object = None

    @classmethod
    def detect(cls) -> bool:
        """Tell whether we run inside a webui that we know."""
        return adapter() is not None

    @property
    def patcher(self) -> Patcher:
        """The patcher of the model that is loaded now; raise HostError while there is none."""
        model = self.webui.current()
        if model is None:
            raise HostError("the webui has no model loaded; choose a checkpoint first")
        if self._patcher is None or not self._holds(model):
            self.forget_model()
            self._patcher = self.webui.patcher(model)
            self._model, self._identity = weakref.ref(model), self.webui.identity(model)
            layers = sorted((name, info.shape) for name, info in self._patcher.base.layers.items())
            self._shapes = hashlib.sha256(repr((self._patcher.base.family, layers)).encode()).hexdigest()
        return self._patcher

    def _holds(self, model: Any) -> bool:
        """Tell whether the patcher is for this model with these weights; a new model may have the address of one that is gone."""
        return self._model is not None and self._model() is model and self._identity == self.webui.identity(model)

    def forget_model(self) -> None:
        """Let go of the model of the last plan."""
        if self._patcher is not None:
            self._patcher.restore()
        self._patcher, self._model, self._identity = None, None, ""

    def unload(self) -> str:
        """Give the memory of the loaded model back until the next image, after one that is being made; return a sentence."""
        from modules import call_queue

        with call_queue.queue_lock:
            self.forget_model()
            self.webui.unload()
        return "The model is out of the GPU's memory; the next image loads it again."

    @property
    def base(self) -> BaseModel:
        """The running model's family and canonical parameter names."""
        return self.patcher.base

    @property
    def identity(self) -> str:
        """A text that changes when another model is loaded, or another checkpoint into the same one."""
        return self.webui.identity(self.webui.current())

    def weight(self, parameter: str) -> Tensor:
        """Return the weight under a canonical parameter name, as the layer has it now; raise HostError if there is none."""
        return base_weight(self.patcher, parameter, self.webui.label(self.webui.current()))

    def presets(self) -> Presets:
        """Return the presets of block weights and element filters as they are now; raise PromptError."""
        return self.session.presets()

    def find_files(self) -> None:
        """Look at the folders again, which the command line names; files that came since are found without this too."""
        self.session.library = Library(folders(), data_folder())
        self.session.library.scan()

    @property
    def library(self) -> Library:
        """The network files that tags can name."""
        return self.session.library

    def folders(self) -> Sequence[Path]:
        """Return the folders that hold network files."""
        return self.library.folders

    def apply(self, activations: Sequence[Activation]) -> Report:
        """Put exactly these networks on the model; one that does not fit is left out with a sentence in the report's notes."""
        self.webui.guard.install()
        self.patcher.workspace.merged_bytes = _merged_bytes()
        return apply_fitting(self.patcher, activations, _mode())

    def step(self, step: int, steps: int) -> None:
        """Say which sampling step (from 0) comes next."""
        if self._patcher is not None:
            self._patcher.step(step, steps)

    def clear(self) -> None:
        """Take all networks off, and forget them but for as many as the settings want to keep."""
        self.wanted = None
        self.words.remove()
        if self._patcher is not None:
            self._patcher.restore()
        self.session.cache.forget(*_kept())

    def pause(self) -> None:
        """Take all networks off at the end of a run; what was prepared stays, for the next run asks for the same most often."""
        self.wanted = None
        self.words.remove()
        if self._patcher is not None:
            self._patcher.pause()
        self.session.cache.end_run(*_kept())

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Have no network act for a while, and ignore activations: the webui computes the empty prompt in the middle of a run."""
        before = self.suspended
        patcher = self._patcher if self._patcher is not None and self._patcher.active else None
        if patcher is not None:
            patcher.pause()
        self.suspended = True
        try:
            yield
        finally:
            self.suspended = before
            if patcher is not None and patcher is self._patcher:
                patcher.resume()

    def put_on(self, wanted: PassRequest) -> Plan:
        """Put on what a pass asks for; whatever cannot be done is reported, the rest works."""
        self.wanted = wanted
        plan = self.session.plan(wanted.tags, lambda: (self.patcher, self._shapes), wanted.seed, wanted.hires)
        report = self.apply(plan.activations)
        self.step(0, wanted.steps)
        plan.problems += report.problems
        plan.problems += self.words.put(plan.networks.values())
        plan.problems = list(dict.fromkeys(plan.problems))
        return plan

    def model_changed(self) -> bool:
        """Tell whether the plan is for another model than the one that the webui computes with."""
        return self.wanted is not None and not self.suspended and not self._holds(self.webui.current())

    def report(self, sentences: Sequence[str]) -> None:
        """Write sentences to the console; those about an image go below it, by its activation."""
        for sentence in sentences:
            print(f"LyCORIS: {sentence}")


def _mode() -> Any:
    from modules import shared

    found = getattr(shared.opts, "lyco_mode", "auto")
    return found if found in get_args(Mode) else "auto"


def _other_family() -> bool:
    from modules import shared

    return bool(getattr(shared.opts, "lyco_other_family", False))


def _merged_bytes() -> int | None:
    from modules import shared

    mib = getattr(shared.opts, "lyco_merged_mib", -1)
    return None if mib is None or mib < 0 else int(float(mib) * MIB)


def _kept() -> tuple[float, int]:
    """Return how many MiB of networks to keep, and how many networks whatever their size."""
    from modules import shared

    mib = getattr(shared.opts, "lyco_cache_mib", KEPT_MIB)
    return float(mib or 0), int(getattr(shared.opts, "lyco_in_memory_limit", 0) or 0)


@cache
def host() -> WebuiHost:
    """Return the one host of this process; raise HostError in a program that is none that we know."""
    found = adapter()
    if found is None:
        raise HostError("this program is no webui that the extension knows")
    return WebuiHost(found)
