"""Networks + checkpoint -> what changes in each stored tensor, and the tensor that comes out.

W' = round(W + Σ s · ΔW(W)): every delta from the same base weight, summed in float32 in the fixed order of the networks, rounded once, as
the merged path on a live model does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from ...algorithms import Algorithm
from ...errors import ModelMismatchError, ToolError
from ...networks import Network, Skipped, load
from ...networks.limits import sound
from ...prompt import StrengthMap
from ..files.checkpoint import Checkpoint, TensorLocation, torch_dtype
from ..jobs.progress import Progress
from .strengths import NetworkOptions

AT_ONCE = 1 << 18  # elements added and rounded at a time: they stay in the processor's cache, and nothing of full size is made
Rows = Callable[[slice], Tensor]  # rows of a delta
FP8_LARGEST = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}


@dataclass(frozen=True, eq=False)
class TensorChange:
    """What one network does to one stored tensor."""

    algorithm: Algorithm
    strength: float
    sources: tuple[TensorLocation, ...]  # what the algorithm's weight is put together from, in order
    mine: tuple[TensorLocation, ...]  # those of them that lie in this tensor


@dataclass(frozen=True, eq=False)
class Mixed:
    """One network on the checkpoint; its tensors are held by the changes alone, so that used ones are free."""

    asked: NetworkOptions
    digest: str
    metadata: Mapping[str, str]
    strengths: StrengthMap
    matched: tuple[str, ...]
    unmatched: tuple[Skipped, ...]


@dataclass(eq=False)
class Changes:
    """All that several networks change in a checkpoint; networks are in their fixed order."""

    checkpoint: Checkpoint
    device: str = "cpu"
    networks: list[Mixed] = field(default_factory=list)
    by_key: dict[str, list[TensorChange]] = field(default_factory=dict)  # emptied while it is used
    keys: frozenset[str] = frozenset()  # of the tensors that change

    def merged(self, key: str, code: str) -> Tensor:
        """Return the changed tensor in a dtype (safetensors' spelling), on the CPU. Raises ToolError when it does not fit into it."""
        base = self._read(key)
        changes = self.by_key.get(key, [])
        whole = sum(not by_rows(change.algorithm) for change in changes)
        if whole > 1:  # one delta of full size at a time
            total = base.to(_precision(base), copy=True)
            for change in changes:
                _add(total, change, self._rows_of(change, key, base), slice(0, base.shape[0]))
            return _rounded(key, code, total, [])
        return _rounded(key, code, base, [(change, self._rows_of(change, key, base)) for change in changes])

    def _read(self, key: str) -> Tensor:
        tensor = self.checkpoint.read(key).to(self.device)
        return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor

    def _rows_of(self, change: TensorChange, key: str, base: Tensor) -> Rows:
        """Return what gives rows of a change's delta: by themselves where the algorithm can, out of the whole delta elsewhere."""
        algorithm = change.algorithm
        if by_rows(algorithm):
            exact = algorithm.moved(base)
            return lambda its: exact.rows(its).delta(_like(base, its))  # type: ignore[union-attr]
        parts = [(base if place.key == key else self._read(place.key))[place.rows] for place in change.sources]
        delta = algorithm.delta(parts[0] if len(parts) == 1 else torch.cat(parts))
        return lambda its: delta[its]


def by_rows(algorithm: Algorithm) -> bool:
    """Tell whether rows of the delta can be had alone, without the base weight: no tensor of full size is then made."""
    return not algorithm.reads_weight and algorithm.rows(slice(0, 1)) is not None


def _like(base: Tensor, rows: slice) -> Tensor:
    """Return a tensor that has the shape of rows of the base weight, and no memory."""
    return torch.empty(1, dtype=base.dtype, device=base.device).expand(rows.stop - rows.start, *base.shape[1:])


def _precision(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _blocks(rows: int, shape: Sequence[int]) -> list[slice]:
    step = max(1, AT_ONCE // max(1, prod(shape[1:])))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _add(exact: Tensor, change: TensorChange, rows_of: Rows, block: slice) -> None:
    """Add strength · delta to a block of a tensor's rows.

    The product is rounded on its own: a fused multiply-add rounds differently in the lanes at a block's end.
    """
    for place in change.mine:
        first, last = max(place.rows.start, block.start), min(place.rows.stop, block.stop)
        for part in _blocks(max(0, last - first), exact.shape):
            start = place.its.start + first - place.rows.start + part.start
            delta = rows_of(slice(start, start + part.stop - part.start))
            mine = exact[first - block.start + part.start : first - block.start + part.stop]
            mine += (delta if change.strength == 1 else delta * change.strength).to(exact.dtype)


def _rounded(key: str, code: str, base: Tensor, parts: Sequence[tuple[TensorChange, Rows]]) -> Tensor:
    """Return base (+ changes) in a dtype, made block by block; in base's own memory where that is possible."""
    dtype = torch_dtype(code)
    values = base.reshape(-1) if base.dim() == 0 else base
    out = values if dtype == base.dtype and base.device.type == "cpu" else torch.empty(values.shape, dtype=dtype)
    for block in _blocks(values.shape[0], values.shape):
        exact = values[block].to(_precision(values), copy=True)
        for change, rows_of in parts:
            _add(exact, change, rows_of, block)
        out[block] = _fitting(key, code, exact, values[block]).to(device="cpu", dtype=dtype)
    return out.reshape(base.shape)


def _fitting(key: str, code: str, exact: Tensor, base: Tensor) -> Tensor:
    """Return values that fit into a dtype: fp8's are cut off at its largest, fp16 that would become infinite is refused.

    base: the checkpoint's own values, which may be broken from the start.
    """
    if code in FP8_LARGEST:
        return exact.clamp(-FP8_LARGEST[code], FP8_LARGEST[code])
    if exact.numel():
        low, high = (float(v) for v in torch.aminmax(exact))
        largest = torch.finfo(torch_dtype(code)).max
        if not (-largest <= low and high <= largest):
            if not sound(base, torch.finfo(torch.float32).max):
                raise ToolError(f"the checkpoint is broken: {key} holds NaN or infinity before anything is merged; use another copy of it")
            raise ToolError(
                f"{key} would hold values from {low:g} to {high:g}, which {code} (up to {largest:g}) cannot; lower the strengths or use "
                "--save_precision bf16 or fp32"
            )
    return exact


def find_changes(checkpoint: Checkpoint, wanted: Sequence[NetworkOptions], seed: int, device: str, progress: Progress) -> Changes:
    """Load networks and find what they change in a checkpoint.

    Raises ModelMismatchError when a network fits nothing of it, ToolError when nothing would change.
    """
    found = Changes(checkpoint, device)
    progress.start(len(wanted), "reading networks", "networks")
    loaded = []
    for item in wanted:
        network = load(item.path, checkpoint.base)
        loaded.append((network, item, item.strengths(checkpoint.base.family, seed)))
        progress.advance(text=f"reading {item.path.name}")
    for network, item, strengths in sorted(loaded, key=lambda one: (one[0].digest, one[2].digest, one[1].dyn or 0)):
        found.networks.append(_mix(found, network, item, strengths))
    if not found.by_key:
        raise ToolError("nothing would change: every strength is 0 where the networks have a change; give other strengths or block weights")
    found.keys = frozenset(found.by_key)
    return found


def _mix(found: Changes, network: Network, item: NetworkOptions, strengths: StrengthMap) -> Mixed:
    matched, unmatched = [], list(network.skipped)
    for name, algorithm in network.patches.items():
        sources = sorted(found.checkpoint.places(name), key=lambda place: place.its.start)
        if not sources:
            reason = "has no bias there" if name.partition("[")[0].endswith("bias") else "has no such layer"
            unmatched.append(Skipped(name, f"the checkpoint ({found.checkpoint.base.label}) {reason}"))
            continue
        matched.append(name)
        strength = strengths(name)
        if not isinstance(strength, (int, float)):
            raise ToolError(f"the strength of {network.name} changes over the steps; a merged model has one strength, give a number")
        if strength:
            _add_change(found, name, algorithm.truncated(item.dyn) if item.dyn else algorithm, float(strength), tuple(sources))
    if network.patches and not matched:
        raise ModelMismatchError(f"{network.path.name} fits no tensor of {found.checkpoint.path.name} ({found.checkpoint.base.label})")
    return Mixed(item, network.digest, network.metadata, strengths, tuple(matched), tuple(unmatched))


def _add_change(found: Changes, name: str, algorithm: Algorithm, strength: float, sources: tuple[TensorLocation, ...]) -> None:
    entries = found.checkpoint.entries
    first = entries[sources[0].key].shape
    rows = sum(place.its.stop - place.its.start for place in sources)
    if problem := algorithm.check_shape((rows, *first[1:])):
        raise ModelMismatchError(f"{name}: {problem}")
    for key in dict.fromkeys(place.key for place in sources):
        mine = tuple(place for place in sources if place.key == key)
        found.by_key.setdefault(key, []).append(TensorChange(algorithm, strength, sources, mine))
