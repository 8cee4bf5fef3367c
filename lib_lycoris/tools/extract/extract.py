"""Extracts the difference of two checkpoints as a network: ΔW = W_tuned - W_org, module by module, in the algorithm asked for.

Both files are read in pieces; memory holds one module's difference for each thread. Tensors whose bytes are the same are left out, nothing
is clamped, and what the network keeps of the difference is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ToolError
from ...models import count_layers
from ...wording import counted
from ..declaration import FilePath, Plan, Result, Tool, options_of
from ..files.networks.alpha import alpha_notes, with_alpha
from ..files.networks.growing import GrowingFile, header_room
from ..files.networks.naming import Named, select, to_dtype
from ..files.output import refuse_inputs, require_space
from ..jobs.progress import Progress
from ..jobs.workers import count, one_thread_each, ordered
from ..linalg.candidates import READS_WEIGHT, Wanted, leading_values, make, numbers_of
from ..linalg.ranks import Rule, Share, share_out
from ..units import megabytes, too_little
from .difference import PieceBuffers, Reader, difference
from .options import OPTIONS, ExtractOptions, Target, find_targets, understand
from .report import Row, facts, metadata, summary, warnings

BUDGET_RANKS = 128  # per module at most, where a file size decides
SECONDS = 1.2e-8  # for a number of the models, on two cores
MEASURE_SECONDS = 5e-8  # and to know its leading singular values
FACTORS_BYTES, OTHER_BYTES, LEADING_BYTES = 6, 11, 10  # in memory for a number of the largest tensor: by algorithm, and for a size


def run(
    model_org: FilePath, model_tuned: FilePath, save_to: FilePath, *, algorithm: str = "locon", dim: int | None = None,
    conv_dim: int | None = None, rule: str = "fixed", value: float = 0.0, conv_value: float | None = None, size: float | None = None,
    factor: int = -1, lokr_rank: int | None = None, block: int = 32, style: str = "kohya", alpha: float | None = None,
    save_precision: str = "fp16", embeddings: bool = False, text_encoder: bool = True, device: str = "cpu",
    progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Extract the difference of two checkpoints as a network: ΔW = W_tuned - W_org, layer by layer, in the algorithm asked for.

    The report holds rank and relative error ‖ΔW - kept‖ / ‖ΔW‖ of every layer and of the whole, and what was left out with the reason.

    Raises:
        ToolError: an option is wrong, the checkpoints are equal, or the disk is full.
        ModelMismatchError: the checkpoints are of different base models.
        NetworkFormatError: a file cannot be read.
    """
    return _extract(progress or Progress(), options_of(locals()))


def _extract(progress: Progress, options: Mapping[str, Any]) -> Result:
    started = time.monotonic()
    request = understand(options)
    save_to = Path(options["save_to"])
    refuse_inputs(save_to, [request.base.path, request.tuned.path])
    targets, left_out = find_targets(request)
    keys, longest = _room(targets)
    old = metadata(request.base, request.tuned, options, ())
    ranks = _shared(request, targets, header_room(keys, longest, old), progress) if request.size else None
    require_space(save_to.parent, _bytes(request, targets, header_room(keys, longest, old)), save_to.name)
    rows: list[Row] = []
    with GrowingFile(save_to, keys, longest, old) as file, _Extraction(request, ranks) as extraction:
        for target, results in extraction.results(targets, progress, "extracting"):
            for row, name, tensors in results:
                rows.append(row)
                if tensors:
                    file.add(name, tensors)
            progress.advance(prod(target.shape), target.module)
        if not any(row.algorithm for row in rows):
            raise ToolError(f"{request.tuned.path.name} and {request.base.path.name} have the same weights; there is nothing to extract")
        file.finish(metadata(request.base, request.tuned, options, rows))
        size, notes = file.size, alpha_notes(file.keys, request.alpha)
    report = facts(rows, left_out, size, time.monotonic() - started, request.tuned.base.family)
    report["warnings"] = [*warnings(request.base, request.tuned), *notes]
    return Result(report, "\n".join([summary(save_to.name, report, rows), *report["warnings"]]), (save_to,))


def plan(**options: Any) -> Plan:
    """Say which parameters would be looked at and how large the file would be."""
    request = understand(options)
    targets, left_out = find_targets(request)
    header = header_room(*_room(targets), metadata(request.base, request.tuned, options, ()))
    size = request.size or _bytes(request, targets, header)
    numbers = sum(prod(target.shape) for target in targets)
    report: dict[str, Any] = {"matched": [t.name for t in targets], "unmatched": [list(item) for item in left_out]}
    layers = counted(count_layers(target.name for target in targets), "layer")
    text = f"compares {layers} of both models, {len(left_out)} left out; the file has about {megabytes(size)}"
    report["warnings"] = warnings(request.base, request.tuned)
    text = "\n".join([text, *report["warnings"]])
    held = LEADING_BYTES if request.size else FACTORS_BYTES if request.linear.algorithm in ("lora", "locon") else OTHER_BYTES
    memory = count(request.device) * held * max(prod(target.shape) for target in targets)
    return Plan(report, text, numbers * (SECONDS + (MEASURE_SECONDS if request.size else 0)), memory, size)


def _room(targets: Sequence[Target]) -> tuple[int, int]:
    """Return how many keys the file can have, and how many characters the longest of them."""
    keys = sum(len(target.names) * (1 if target.suffix else 5) for target in targets)
    return keys, max(len(item.name) for target in targets for item in target.names) + 20


class _Extraction:
    """The two models, open, and what each thread does with a parameter of them."""

    def __init__(self, request: ExtractOptions, ranks: Mapping[str, int] | None = None) -> None:
        self.request, self.ranks = request, ranks
        self.base, self.tuned, self.space = Reader(request.base), Reader(request.tuned), PieceBuffers()

    def __enter__(self) -> _Extraction:
        return self

    def __exit__(self, *_: object) -> None:
        self.base.close()
        self.tuned.close()

    def results(self, targets: Sequence[Target], progress: Progress, text: str) -> Iterator[tuple[Target, list[Any]]]:
        """Yield each parameter with what became of it, in order."""
        progress.start(sum(prod(target.shape) for target in targets), text, "weights")
        work = self.measured if text == "measuring" else self.extracted
        yield from zip(targets, ordered(work, targets, count(self.request.device)), strict=True)

    def _delta(self, target: Target) -> tuple[Tensor, Any]:
        memory = self.space.get(prod(target.shape))
        found = difference(self.tuned, self.base, target.name, memory, self.space.scratch())
        return memory.reshape(target.shape), found

    def extracted(self, target: Target) -> list[tuple[Row, str, dict[str, Tensor]]]:
        """Return (row of the report, module of the file, tensors) of each module that stands for a parameter."""
        delta, found = self._delta(target)
        if found.identical or found.energy == 0:
            return [(Row(target.name, identical=True, base_energy=found.base_energy), "", {})]
        delta = delta.to(self.request.device)
        weight = self._weight(target)
        parts = []
        for item in target.names:
            part = select(delta, item.rows)
            total = found.energy if len(target.names) == 1 else _energy(part)
            share = found.base_energy * part.numel() / delta.numel()
            parts.append(self._made(target, item, part, total, share, None if weight is None else select(weight, item.rows)))
        return parts

    def _weight(self, target: Target) -> Tensor | None:
        wanted = self._wanted(target)
        if target.suffix or wanted.algorithm not in READS_WEIGHT:
            return None
        return self.base.read(target.name, target.shape).to(self.request.device)

    def _wanted(self, target: Target) -> Wanted:
        wanted = self.request.conv if target.is_kernel and self.request.conv else self.request.linear
        if self.ranks is None or target.suffix:
            return wanted
        return replace(wanted, rule=Rule("fixed", largest=max(1, self.ranks[target.name])))

    def _made(
        self, target: Target, item: Named, delta: Tensor, total: float, base: float, weight: Tensor | None
    ) -> tuple[Row, str, dict[str, Tensor]]:
        whose = f"{self.request.tuned.path.name}: {target.name}"
        if target.suffix:
            kept = to_dtype({target.suffix: delta.clone().cpu()}, self.request.dtype, whose)
            return Row(target.name, "bias" if target.suffix.endswith("_b") else "full", None, total, 0.0, base), item.name, kept
        if total == 0 or (self.ranks is not None and not self.ranks[target.name]):
            return Row(target.name, "", None, total, total, base), "", {}
        made = make(self._wanted(target), self.request.style, delta, total, weight)
        found = with_alpha({key: value.cpu() for key, value in made.tensors.items()}, self.request.alpha)
        tensors = to_dtype(found, self.request.dtype, whose)
        return Row(target.name, made.algorithm, made.rank, total, made.left, base), item.name, tensors

    def measured(self, target: Target) -> Tensor:
        """Return the leading singular values of a parameter's difference; nothing where the bytes are the same."""
        delta, found = self._delta(target)
        if found.identical or found.energy == 0:
            return torch.empty(0)
        rule = self._wanted(target).rule
        return leading_values(delta, min(rule.largest or BUDGET_RANKS, BUDGET_RANKS), found.energy)


def _energy(part: Tensor) -> float:
    return float(part.double().square().sum())


def _shared(request: ExtractOptions, targets: Sequence[Target], header: int, progress: Progress) -> dict[str, int]:
    """Return the rank of every weight for a file of the size asked for."""
    weights = [target for target in targets if not target.suffix]
    width = torch.empty(0, dtype=request.dtype).element_size()
    fixed = header + sum(prod(target.shape) * width for target in targets if target.suffix)
    assert request.size is not None
    if fixed >= request.size:
        raise too_little(request.size, fixed)
    shares = []
    with _Extraction(request) as extraction, one_thread_each():
        for target, values in extraction.results(weights, progress, "measuring"):
            shares.append(Share(values, _rank_bytes(target, width), width * len(target.names)))  # type: ignore[arg-type]
            progress.advance(prod(target.shape), target.module)
    return dict(zip((target.name for target in weights), share_out(shares, request.size - fixed), strict=True))


def _rank_bytes(target: Target, width: int) -> int:
    down = prod(target.shape[1:]) * len(target.names)  # parts of a fused weight have a down of their own each
    return (target.shape[0] + down) * width


def _bytes(request: ExtractOptions, targets: Sequence[Target], header: int) -> int:
    """Return how large the file is if every parameter differs and the rule keeps all ranks that it may."""
    width = torch.empty(0, dtype=request.dtype).element_size()
    numbers = 0
    for target in targets:
        wanted = request.conv if target.is_kernel and request.conv else request.linear
        for item in target.names:
            shape = (len(range(*item.rows[0].indices(target.shape[0]))) if len(target.names) > 1 else target.shape[0], *target.shape[1:])
            numbers += prod(shape) if target.suffix else numbers_of(wanted, shape)
    return header + numbers * width


TOOL = Tool("extract", "Extract", "extract the difference of two checkpoints as a network", run, plan, OPTIONS)
