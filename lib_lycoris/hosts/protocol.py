"""What every host offers to the rest of the package, and the words in which an image is asked for and handed back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import HostError
from ..records import dataclass

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import BaseModel
    from ..patching import Activation, Report


class Host(Protocol):
    """A program with a running model that networks can be put on."""

    name: str

    @classmethod
    def detect(cls) -> bool:
        """Tell whether we run inside this host."""

    @property
    def base(self) -> BaseModel:
        """The running model's family and canonical parameter names."""

    @property
    def identity(self) -> str:
        """A text that changes when another model is loaded."""

    def weight(self, parameter: str) -> Tensor:
        """Return the base weight under a canonical parameter name; raise HostError if there is none."""

    def apply(self, activations: Sequence[Activation]) -> Report:
        """Put exactly these networks on the model; what could not be done is in the report."""

    def step(self, step: int, steps: int) -> None:
        """Say which sampling step (from 0) comes next, for strengths with a schedule."""

    def clear(self) -> None:
        """Take all networks off: the model's bits are what they were."""

    def folders(self) -> Sequence[Path]:
        """Return the folders that hold network files."""

    def report(self, sentences: Sequence[str]) -> None:
        """Tell the user, where this host shows such things."""


@dataclass(frozen=True)
class GenerationRequest:
    """One image to make."""

    prompt: str
    negative: str = ""
    seed: int = -1  # -1: a random one
    steps: int = 20
    width: int = 512  # pixels, a multiple of 8
    height: int = 512
    cfg: float = 7.0
    sampler: str = "DDIM"
    strict: bool = False  # make no image where a tag cannot be applied, instead of one without it


@dataclass(frozen=True)
class GenerationProgress:
    """How far an image is: steps done and, once a step is done, steps a second and seconds left, and now and then how it looks."""

    step: int
    steps: int
    rate: float | None = None
    eta: float | None = None
    preview: Any = None  # PIL.Image.Image, small

    def text(self) -> str:
        """Return it as the user reads it."""
        done = f"step {self.step} of {self.steps}"
        if self.rate is None or self.eta is None:
            return done
        speed = f"{self.rate:.1f} steps/s" if self.rate >= 1 else f"{1 / self.rate:.1f} s/step"
        return f"{done} - {speed} - {f'{self.eta:.0f} s left' if self.eta >= 0.5 else 'finishing'}"


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image with what was done to make it and what could not be done."""

    image: Any  # PIL.Image.Image
    infotext: str  # the webui's "parameters" text
    seed: int
    applied: tuple[str, ...]  # one sentence a network
    problems: tuple[str, ...]  # one sentence each


class TagsRefused(HostError):
    """A strict request has tags that cannot be applied; nothing was computed. ``sentences`` say why, one a tag."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("; ".join(sentences))
        self.sentences = tuple(sentences)


class GenerationCancelled(Exception):
    """The user asked to stop; nothing was written and the model is as it was."""


@dataclass(frozen=True)
class NetworkCard:
    """What a page shows of one network file."""

    name: str  # what a tag takes
    path: Path
    folder: str = ""  # below the folder of networks
    base: str = ""  # the base model's short name: "SD1"
    algorithms: tuple[str, ...] = ()  # the most frequent first
    tags: tuple[tuple[str, int], ...] = ()  # tags of the training's captions and their counts
    triggers: tuple[str, ...] = ()  # what the user or the trainer says to write
    title: str = ""
    size: int = 0  # bytes
    changed: float = 0.0  # seconds since 1970
    hash: str = ""  # the first 12 characters, where the file tells
    content: str = ""  # the same for files that hold the same; empty where no other file can
    preview: Path | None = None
    notes: str = ""
    favourite: bool = False
    preferred: float | None = None  # strength
    broken: str = ""  # why the file cannot be read


class NetworkCards(Protocol):
    """A host's networks as a page shows them."""

    def cards(self) -> Sequence[NetworkCard]:
        """Return all cards, sorted by name."""

    def card(self, name: str) -> NetworkCard:
        """Return one card; raise HostError if no file has this name."""

    def keep(self, name: str, changes: Mapping[str, Any]) -> None:
        """Write fields of a card (notes, favourite, preferred, triggers) into the file of notes next to the network; raise HostError."""


class Generator(Host, Protocol):
    """A host that makes images by itself."""

    def generate(
        self, request: GenerationRequest, progress: Callable[[GenerationProgress], None] | None = None, cancel: Event | None = None
    ) -> GeneratedImage:
        """Make one image; raise HostError with a sentence if it cannot be made, GenerationCancelled if ``cancel`` was set."""

    def networks(self) -> Sequence[str]:
        """Return the names that a tag can use, sorted, after a fresh look at the folders."""

    def samplers(self) -> Sequence[str]:
        """Return the names of the samplers."""

    def about(self) -> str:
        """Return one sentence on the model that is loaded."""

    def memory(self) -> str:
        """Return how much memory is in use, of the machine and of the GPU; empty where that is not known."""

    @property
    def example(self) -> str:
        """A prompt without tags that suits the model."""

    @property
    def size(self) -> int:
        """The side of a square image that suits the model, in pixels."""

    @property
    def cfg(self) -> float:
        """How closely images of the model should follow the prompt unless the user says otherwise."""
