"""Networks + checkpoint -> what changes in each stored tensor, and the tensor that comes out.

The sum itself is networks.summing's, which the merged path on a live model uses too: the same weights give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import partial
from math import fsum, isfinite, prod

import torch
from torch import Tensor

from ...algorithms import Algorithm
from ...errors import ModelMismatchError, ToolError
from ...models import parameter, split_parameter, with_part
from ...networks import Network, Skipped, load
from ...networks.limits import sound
from ...networks.summing import ROUNDING, Check, Term, add_terms, by_rows, portions
from ...prompt import StrengthMap
from ...records import dataclass
from ..files.checkpoints.checkpoint import Checkpoint, TensorLocation, torch_dtype
from ..jobs.progress import Progress
from ..linalg.seeded import generator
from .rounding import stochastic
from .strengths import NetworkOptions

FP8_LARGEST = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}


@dataclass(frozen=True, eq=False)
class TensorChange:
    """What one network does to one stored tensor."""

    algorithm: Algorithm
    strength: float
    order: tuple[str, ...]  # the place in the sum
    sources: tuple[TensorLocation, ...]  # what the algorithm's weight is put together from, in order
    mine: tuple[TensorLocation, ...]  # those of them that lie in this tensor

    def is_whole(self, count: int) -> bool:
        """Tell whether the tensor, of so many rows, is the algorithm's weight."""
        first, *others = self.sources
        return not others and self.mine == self.sources and first.its == first.rows == slice(0, count)

    def of_rows(self, rows: slice, base: Tensor) -> Term:
        """Return the term of some rows of the tensor; base: those rows."""
        algorithm = self.algorithm.rows(rows)
        assert algorithm is not None
        return Term(algorithm, self.strength, self.order, lambda: base)


@dataclass(frozen=True, eq=False)
class Mixed:
    """One network on the checkpoint; its tensors are held by the changes alone, so that used ones are free."""

    asked: NetworkOptions
    digest: str
    metadata: Mapping[str, str]
    strengths: StrengthMap
    matched: tuple[str, ...]
    unmatched: tuple[Skipped, ...]
    coverage: str | None  # how many of its layers are used; None: all


@dataclass(eq=False)
class Changes:
    """All that several networks change in a checkpoint; networks are in their fixed order."""

    checkpoint: Checkpoint
    device: str = "cpu"
    rounding: str = "nearest"  # of what is written in fp8
    seed: int = 0
    networks: list[Mixed] = field(default_factory=list)
    by_key: dict[str, list[TensorChange]] = field(default_factory=dict)  # emptied while it is used
    keys: frozenset[str] = frozenset()  # of the tensors that change
    cancelled: set[str] = field(default_factory=set)  # those in which only rounding is left of the networks: once merged, or foreseen

    def portions(self, key: str) -> list[slice | None]:
        """Return the rows of a tensor that :meth:`merged` can make one after the other, to the same bits; None stands for all of them."""
        shape, changes = self.checkpoint.entries[key].shape, self.by_key.get(key, [])
        alone = all(change.is_whole(*shape[:1]) and by_rows(change.algorithm) for change in changes) and not _may_cancel(changes)
        here = self.device == "cpu" and self.rounding == "nearest"  # others are drawn with one seed for all rows
        return [*portions(shape)] if prod(shape) > 1 and alone and here else [None]

    def merged(self, key: str, code: str, rows: slice | None = None) -> Tensor:
        """Return the changed tensor, or one of its portions, in a dtype (safetensors' spelling) and on the CPU.

        Raises ToolError when it does not fit into the dtype.
        """
        base, dtype = self._read(key, rows), torch_dtype(code)
        values = base.reshape(-1) if base.dim() == 0 else base
        out = values if dtype == base.dtype else torch.empty(values.shape, dtype=dtype, device=values.device)
        changes = self.by_key.get(key, [])
        terms = [self._term(change, key, values) if rows is None else change.of_rows(rows, values) for change in changes]
        fitting = partial(_fitting, self.checkpoint.path.name, key, code)
        moved = _Moved(self._rounded(fitting, key, code) if terms else fitting)
        may_cancel = _may_cancel(changes)
        add_terms(out, values, terms, moved if may_cancel else moved.check)
        if may_cancel and moved.is_rounding:
            self.cancelled.add(key)
        return out.reshape(base.shape).cpu()

    def foresee_cancelled(self) -> None:
        """Find the tensors in which the same networks come with strengths that add up to 0; raise ToolError where these are all."""
        for key, changes in self.by_key.items():
            strengths: dict[tuple[str, ...], list[float]] = {}
            for change in changes:
                digest, name, _, ranks = change.order
                strengths.setdefault((digest, name, ranks), []).append(change.strength)
            if all(abs(fsum(found)) <= ROUNDING * max(map(abs, found)) for found in strengths.values()):
                self.cancelled.add(key)
        self.refuse_if_all_cancel()

    def refuse_if_all_cancel(self) -> None:
        """Raise ToolError where the networks cancel each other in every tensor that was merged."""
        if self.cancelled and self.cancelled == self.keys:
            name = self.checkpoint.path.name
            raise ToolError(f"the networks cancel each other: every weight of {name} stays as it is; nothing was written")

    def _rounded(self, check: Check, key: str, code: str) -> Check:
        if self.rounding == "nearest" or code not in FP8_LARGEST:
            return check  # what is written rounds it
        return stochastic(check, torch_dtype(code), generator(f"{self.seed} {key}"))

    def _read(self, key: str, rows: slice | None = None) -> Tensor:
        tensor = self.checkpoint.read(key, rows).to(self.device)
        return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor

    def _term(self, change: TensorChange, key: str, base: Tensor) -> Term:
        if change.is_whole(base.shape[0]):
            return Term(change.algorithm, change.strength, change.order, lambda: base)

        def weight() -> Tensor:
            return torch.cat([(base if place.key == key else self._read(place.key))[place.rows] for place in change.sources])

        pieces = tuple((place.rows, place.its) for place in change.mine)
        return Term(change.algorithm, change.strength, change.order, weight, pieces)


def _may_cancel(changes: Sequence[TensorChange]) -> bool:
    return len(changes) > 1 and any(change.strength < 0 for change in changes)


class _Moved:
    """Measures how far sums are from their weights, block by block and before they are rounded, and hands them on to a check."""

    def __init__(self, check: Check) -> None:
        self.check = check
        self._moved, self._base = 0.0, 0.0

    def __call__(self, exact: Tensor, base: Tensor) -> Tensor:
        wide = base.to(exact.dtype)
        self._moved += float((exact - wide).square().sum())
        self._base += float(wide.square().sum())
        return self.check(exact, base)

    @property
    def is_rounding(self) -> bool:
        """Whether they differ by no more than what adding up in float32 leaves."""
        return self._moved <= ROUNDING**2 * self._base


def _fitting(name: str, key: str, code: str, exact: Tensor, base: Tensor) -> Tensor:
    """Return values that fit into a dtype: fp8's are cut off at its largest, fp16 that would become infinite is refused.

    base: the checkpoint's own values, which may be broken from the start.
    """
    if exact.numel():
        low, high = (float(v) for v in torch.aminmax(exact))
        if code in FP8_LARGEST and isfinite(low) and isfinite(high):
            return exact.clamp(-FP8_LARGEST[code], FP8_LARGEST[code])
        largest = torch.finfo(torch_dtype(code)).max
        if not (-largest <= low and high <= largest):
            if not sound(base, torch.finfo(torch.float32).max):
                raise ToolError(f"{name} is broken: {key} holds NaN or infinity before anything is merged; use another copy of it")
            raise ToolError(
                f"{name}: {key} would hold values from {low:g} to {high:g}, which {code} (up to {largest:g}) cannot; lower the strengths "
                "or use `save_precision=bf16` or fp32"
            )
    return exact


def find_changes(
    checkpoint: Checkpoint, wanted: Sequence[NetworkOptions], seed: int, device: str, progress: Progress, family: str | None = None,
    rounding: str = "nearest",
) -> Changes:  # fmt: skip
    """Load networks and find what they change in a checkpoint.

    Raises ModelMismatchError when a network fits nothing of it, ToolError when nothing would change.
    """
    found = Changes(checkpoint, device, rounding, seed)
    progress.start(len(wanted), "reading networks", "networks")
    loaded = []
    for item in wanted:
        network = load(item.path, checkpoint.base, family=family)
        loaded.append((network, item, item.strengths(checkpoint.base.family, seed)))
        progress.advance(text=f"reading {item.path.name}")
    for network, item, strengths in sorted(loaded, key=lambda one: (one[0].digest, one[2].digest, one[1].dyn or 0)):
        found.networks.append(_mix(found, network, item, strengths))
    if not found.by_key:
        raise ToolError("nothing would change: every strength is 0 where the networks have a change; give other strengths or block weights")
    found.keys = frozenset(found.by_key)
    return found


def _mix(found: Changes, network: Network, item: NetworkOptions, strengths: StrengthMap) -> Mixed:
    usable, unmatched = network.usable(partial(_missing, found.checkpoint))
    for name, algorithm in usable.items():
        sources = sorted(found.checkpoint.places(name), key=lambda place: place.its.start)
        strength = strengths(name)
        if not isinstance(strength, (int, float)):
            raise ToolError(f"the strength of {network.name} changes over the steps; a merged model has one strength, give a number")
        if strength:
            cut = algorithm.beside(partial(_weight_beside, found.checkpoint, name)).truncated(item.dyn or 0)
            _add_change(found, name, cut, float(strength), (network.digest, name, str(float(strength)), str(item.dyn or 0)), tuple(sources))
    if network.patches and not usable:
        where = f"{found.checkpoint.path.name} ({found.checkpoint.base.label})"
        raise ModelMismatchError(f"{network.path.name} fits no tensor of {where}: {': '.join(unmatched[0])}")
    return Mixed(item, network.digest, network.metadata, strengths, tuple(usable), (*network.skipped, *unmatched), network.covered(usable))


def _missing(checkpoint: Checkpoint, name: str) -> str | None:
    """Say that a checkpoint has no such parameter."""
    if checkpoint.places(name):
        return None
    what = "has no bias there" if split_parameter(name)[1] == "bias" else "has no such layer"
    return f"the checkpoint ({checkpoint.base.label}) {what}"


def _weight_beside(checkpoint: Checkpoint, name: str) -> Tensor:
    """Return the weight of the layer whose bias has this name."""
    module, _, part = split_parameter(name)
    return checkpoint.parameter(parameter(with_part(module, part), "weight"))


def _add_change(
    found: Changes, name: str, algorithm: Algorithm, strength: float, order: tuple[str, ...], sources: tuple[TensorLocation, ...]
) -> None:  # fmt: skip
    entries = found.checkpoint.entries
    first = entries[sources[0].key].shape
    rows = sum(place.its.stop - place.its.start for place in sources)
    if problem := algorithm.check_shape((rows, *first[1:])):
        raise ModelMismatchError(f"{name}: {problem}")
    for key in dict.fromkeys(place.key for place in sources):
        if not torch_dtype(entries[key].dtype).is_floating_point:
            raise ToolError(
                f"{found.checkpoint.path.name} holds {key} as whole numbers ({entries[key].dtype}), to which no change can be added; "
                "use its fp16, bf16 or fp32 version"
            )
        mine = tuple(place for place in sources if place.key == key)
        found.by_key.setdefault(key, []).append(TensorChange(algorithm, strength, order, sources, mine))
