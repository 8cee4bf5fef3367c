"""The chosen network of the page Block weight: which blocks it changes and how much, measured once for each file and model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ...errors import LycorisError, ModelMismatchError
from ...hosts.protocol import Generator
from ...models import BaseModel
from ...networks import Network, load
from ...records import dataclass
from ...tools.examine.block_norms import BaseWeights, BlockNorm, measure, touched
from ..style import REFRESH

KEPT = 64  # measured networks that are remembered
Key = tuple[str, int, int, str]


@dataclass(frozen=True)
class BlockChanges:
    """What the page knows of a network; ``norms`` is empty until it has been measured."""

    family: str
    touched: Mapping[str, int]  # block -> parameters that are changed
    norms: Mapping[str, BlockNorm]


@dataclass(frozen=True)
class Measuring:
    """How far the measurement is."""

    done: int
    total: int


class Meter:
    """Reads and measures networks against the model that is loaded, where they fit it; else against the usual one of their family."""

    def __init__(self, generator: Generator | None) -> None:
        self._generator = generator
        self._facts: dict[Key, BlockChanges] = {}
        self._read: tuple[Key, Network, BaseModel] | None = None
        self._weights: tuple[str, BaseWeights | None] = ("", None)

    def facts(self, path: Path) -> BlockChanges:
        """Return what is known of a network: all if it was measured, else which blocks it changes. Raises LycorisError for a bad file."""
        live = self._live()
        key = _key(path, "" if live is None else live[0])
        if key not in self._facts:
            self._read = (key, *_load(path, None if live is None else live[1]))
            network = self._read[1]
            return BlockChanges(network.family, touched(network), {})
        return self._facts[key]

    def norms(self, path: Path) -> Mapping[str, BlockNorm]:
        """Return the norms of a network that was measured, nothing of another; the file is not read. Raises LycorisError."""
        live = self._live()
        known = self._facts.get(_key(path, "" if live is None else live[0]))
        return {} if known is None else known.norms

    def measure(self, path: Path) -> Iterator[Measuring]:
        """Measure a network, telling how far it is; :meth:`facts` then has its norms. Raises LycorisError for a bad file."""
        live = self._live()
        key = _key(path, "" if live is None else live[0])
        if key in self._facts:
            return
        before, self._read = self._read, None  # what facts() has just read is not read again
        network, base = before[1:] if before is not None and before[0] == key else _load(path, None if live is None else live[1])
        weights = self._base_weights(live[0]) if live is not None and base is live[1] else None
        norms: Mapping[str, BlockNorm] = {}
        for done, total, found in measure(network, base, weights):
            norms = found
            yield Measuring(done, total)
        self._facts[key] = BlockChanges(network.family, touched(network), norms)
        for old in list(self._facts)[:-KEPT]:
            del self._facts[old]

    def _live(self) -> tuple[str, BaseModel] | None:
        """Return the loaded model's identity and names; None where no model is loaded."""
        if self._generator is None:
            return None
        try:
            return self._generator.identity, self._generator.base
        except LycorisError:
            return None

    def _base_weights(self, identity: str) -> BaseWeights | None:
        if self._weights[0] != identity:
            self._weights = (identity, BaseWeights(self._weight))
        return self._weights[1]

    def _weight(self, name: str) -> Tensor | None:
        assert self._generator is not None
        try:
            return self._generator.weight(name)
        except LycorisError:
            return None  # a variant of the model lacks this layer: its change is told as not measured


def _key(path: Path, identity: str) -> Key:
    try:
        info = path.stat()
    except OSError as error:
        raise LycorisError(f"{path.name} cannot be read ({error.strerror}); press {REFRESH} and choose again") from error
    return str(path), info.st_mtime_ns, info.st_size, identity


def _load(path: Path, live: BaseModel | None) -> tuple[Network, BaseModel]:
    """Return a network with the model whose names and shapes it fits best."""
    network = None
    if live is not None:
        try:
            network = load(path, live)
        except ModelMismatchError:
            network = None
        if network is not None and not network.skipped:
            return network, live
    try:
        usual = load(path)
    except ModelMismatchError:
        if network is None or live is None:
            raise
        return network, live
    if network is not None and live is not None and len(network.patches) >= len(usual.patches):
        return network, live
    return usual, usual.base
