"""One network made of several: parameter by parameter, cut to ranks where ranks are asked for."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...algorithms.base import flat
from ...models import count_layers
from ...records import dataclass
from ...wording import counted
from ..declaration import Plan, Result
from ..files.foretold import foretold, kind_of, numbers_of, piece_of
from ..files.networks.alpha import alpha_notes, with_alpha
from ..files.networks.compose import Modules, Pair, dense_modules, join, lora_modules, names_of, without_numbers
from ..files.networks.growing import GrowingFile, header_room
from ..files.networks.left_out import left_out_of
from ..files.networks.naming import to_dtype
from ..files.networks.network_file import carried
from ..files.output import refuse_inputs
from ..jobs.cost import KEPT, Piece, cost, together, weeded
from ..jobs.progress import Progress
from ..jobs.workers import count, one_thread_each, ordered
from ..linalg.expand import shortened
from ..linalg.low_rank import energy, qr_svd, relative
from ..linalg.ranks import Share, share_out, truncated_svd
from ..units import megabytes, too_little
from .networks_options import Key, NetworksMergeOptions, disagreed, joined, recipe_of, sources_of, understand
from .sums import cancelled_lines, cancels, refuse_if_all_cancel, summed


@dataclass(frozen=True)
class Merged:
    """One module of the result."""

    parameter: str
    rank: int | None
    energy: float
    left: float
    modules: Modules
    cancelled: bool = False  # only rounding is left of the networks' changes


def merged(progress: Progress, options: Mapping[str, Any]) -> Result:
    """Merge as options ask."""
    started = time.monotonic()
    request = understand(options, progress)
    save_to = Path(options["save_to"])
    refuse_inputs(save_to, [item.file for item in request.asked])
    recipe = recipe_of(request, options)
    old = joined(sources_of(request), [item.path.name for item in request.asked], save_to.stem)
    keys, longest = _room(request)
    start = carried(old, recipe, ())
    found: list[Merged] = []
    try:
        ranks = _shared(request, header_room(keys, longest, start), progress) if request.size else None
        with GrowingFile(save_to, keys, longest, start) as file:
            progress.start(len(request.work), "merging", "layers")
            for made in ordered(lambda key: _merge(request, key, ranks), request.work, count(request.device)):
                for name, tensors in made.modules:
                    file.add(name, tensors)
                found.append(replace(made, modules=without_numbers(made.modules)))
                progress.advance(1, made.parameter)
            refuse_if_all_cancel(request, [made.parameter for made in found if made.cancelled], any(made.modules for made in found))
            _add_embeddings(request, file)
            plain = all(set(t) <= {"lora_up.weight", "lora_down.weight", "alpha"} for made in found for _, t in made.modules)
            file.finish(carried(old, recipe, [made.rank for made in found], plain, alpha=request.alpha))
            size, notes = file.size, alpha_notes(file.keys, request.alpha)
    finally:
        if request.weights is not None:
            request.weights.close()
    return _result(save_to, request, found, size, notes, time.monotonic() - started)


def planned(options: Mapping[str, Any]) -> Plan:
    """Say what would be merged, and how large the file would be."""
    request = understand(options, Progress())
    try:
        cancelled = {key: f"{key[0]}.{key[1]}" for key in request.work if cancels(request, key)}
        refuse_if_all_cancel(request, cancelled.values(), len(cancelled) < len(request.work))
        made = _foretold(request, cancelled)
        size = request.size or _size(request, options, sum(numbers for numbers, _ in made))
    finally:
        if request.weights is not None:
            request.weights.close()
    names = [f"{module}.{leaf}" for module, leaf in request.work]
    skipped = [list(item) for network in request.networks for item in network.skipped]
    text = f"{counted(len(request.networks), 'network')} in one, {counted(len({module for module, _ in request.work}), 'layer')}"
    text = "\n".join([text, *cancelled_lines(cancelled.values()), *left_out_of(request.networks)])
    read = sum(item.file.stat().st_size for item in request.asked)
    took = cost([piece for _, piece in made], read, size, rounds=2 if request.size else 1)
    return Plan({"matched": names, "unmatched": skipped}, text, took.seconds, took.bytes + int(KEPT * size), size)


def _foretold(request: NetworksMergeOptions, cancelled: Collection[Key]) -> list[tuple[int, Piece]]:
    """Return the numbers that each parameter becomes and the work on it: one of each kind is merged, all where a rule chooses the ranks."""
    alike = request.linear is None or (request.linear.kind == "fixed" and request.conv is not None and request.conv.kind == "fixed")

    def kind(key: Key) -> Hashable:
        names = names_of(request.base, request.style, key[0])
        return (key in cancelled, len(names), *(kind_of(item.patch, names) for item in request.work[key])) if alike else key

    def look(key: Key) -> tuple[int, Piece]:
        numbers = 0 if request.size else numbers_of(_merge(request, key, None).modules)
        if request.method != "sum":
            return numbers, weeded([prod(item.patch.shape) for item in request.work[key]])
        return numbers, together([piece_of(item.patch, whole=True) for item in request.work[key]], request.linear is not None)

    return foretold(request.work, kind, look)


def _size(request: NetworksMergeOptions, options: Mapping[str, Any], numbers: int) -> int:
    """Return how large the file will be with so many numbers in its parameters."""
    old = joined(sources_of(request), [item.path.name for item in request.asked], Path(options["save_to"]).stem)
    header = header_room(*_room(request), carried(old, recipe_of(request, options), ()))
    return header + (numbers + _embedding_numbers(request)) * torch.empty(0, dtype=request.dtype).element_size()


def _room(request: NetworksMergeOptions) -> tuple[int, int]:
    """Return how many keys the file can have, and how many characters the longest of them."""
    keys = sum(_keys(request, key) for key in request.work) + sum(len(p) for n in request.networks for p in n.embeddings.values())
    return keys, max(len(module) for module, _ in request.work) + 60


def _keys(request: NetworksMergeOptions, key: Key) -> int:
    """Return how many tensors a parameter can become: a LoRA's three, for each module that stands for it."""
    parts = {item.patch.part for item in request.work[key]}
    return 3 * max(len(parts), len(names_of(request.base, request.style, key[0])))


def _merge(request: NetworksMergeOptions, key: Key, ranks: Mapping[Any, int] | None) -> Merged:
    module, leaf = key
    name = request.work[key][0].patch.name.partition("[")[0]
    found = summed(request, key)
    if found.is_rounding(request):
        return Merged(name, None, 0.0, 0.0, [], True)
    pairs, dense = found.pairs, found.dense
    shape = tuple(request.base.layers[module].shape)
    matrix = leaf == "weight" and len(shape) > 1
    if dense and not (matrix and request.linear):
        for part, (up, down) in pairs.items():
            product = (up @ down).reshape(-1, *shape[1:])
            dense[part] = dense[part] + product.reshape(dense[part].shape) if part in dense else product
        made = dense_modules(request.base, request.style, module, leaf, dense)
        return Merged(name, None, 0.0, 0.0, _cast(request, made))
    total = left = 0.0
    if dense:
        for part, delta in dense.items():
            pairs[part], lost = _approximated(request, delta, pairs.pop(part, None))
            total, left = total + lost, left + lost
    rank, modules = 0, []
    for part, pair in join(request.base, request.style, module, pairs).items() if pairs else ():
        up, down, size, lost = _cut(request, pair, prod(shape[2:]) > 1, None if ranks is None else ranks[(module, part)])
        total, left, rank = total + size, left + lost, max(rank, up.shape[1])
        if up.shape[1]:
            modules += lora_modules(request.base, request.style, module, part, up, down)
    return Merged(name, rank, total, left, _cast(request, modules))


def _approximated(request: NetworksMergeOptions, delta: Tensor, pair: Pair | None) -> tuple[Pair, float]:
    """Return factors of a whole difference, as many as the rule keeps, and the energy that is lost with the others."""
    matrix = flat(delta) if pair is None else flat(delta) + pair[0] @ pair[1]
    rule = request.linear if delta.dim() == 2 or prod(delta.shape[2:]) == 1 else request.conv
    assert rule is not None
    whole = energy(matrix)
    svd = truncated_svd(matrix.to(request.device), rule, whole)
    up, down = svd.factors()
    return (up.cpu(), down.cpu()), max(0.0, whole - svd.captured())


def _cut(request: NetworksMergeOptions, pair: Pair, kernel: bool, rank: int | None) -> tuple[Tensor, Tensor, float, float]:
    rule = request.conv if kernel else request.linear
    if rule is None and rank is None:
        up, down = shortened(*pair)
        return up, down, 0.0, 0.0
    svd = qr_svd(*pair)
    if rank is None:
        assert rule is not None
        rank = rule.choose(svd.s, svd.total)
    return *svd.factors(rank), svd.total, float(svd.s[rank:].double().square().sum())


def _cast(request: NetworksMergeOptions, modules: Modules) -> Modules:
    files = ", ".join(item.path.name for item in request.asked)
    return [
        (name, to_dtype(with_alpha({key: t.cpu() for key, t in tensors.items()}, request.alpha), request.dtype, f"{files}: {name}"))
        for name, tensors in modules
    ]


def _shared(request: NetworksMergeOptions, header: int, progress: Progress) -> dict[tuple[str, str], int]:
    """Return the rank of every module for a file of the size asked for."""
    assert request.size is not None
    width = torch.empty(0, dtype=request.dtype).element_size()
    room, shares, names = request.size - header - _embedding_numbers(request) * width, [], []
    progress.start(len(request.work), "measuring", "layers")
    with one_thread_each():
        for key in request.work:
            module, leaf = key
            shape = request.base.layers[module].shape
            if leaf == "weight" and len(shape) > 1:
                found = summed(request, key)
                pairs, dense = ({}, {}) if found.is_rounding(request) else (found.pairs, found.dense)
                for part, delta in dense.items():
                    pairs[part], _ = _approximated(request, delta, pairs.pop(part, None))
                for part, pair in join(request.base, request.style, module, pairs).items() if pairs else ():
                    svd = qr_svd(*pair)
                    names.append((module, part))
                    copies = 1 if part else len(names_of(request.base, request.style, module))
                    shares.append(Share(svd.s, (pair[0].shape[0] + copies * pair[1].shape[1]) * width, copies * width))
            else:
                room -= shape[0] * width * (1 if leaf == "bias" or len(shape) == 1 else prod(shape[1:]))
            progress.advance(1, module)
    if room <= 0:
        raise too_little(request.size, request.size - room)
    return dict(zip(names, share_out(shares, room), strict=True))


def _embedding_numbers(request: NetworksMergeOptions) -> int:
    """Return how many numbers the networks' embeddings hold."""
    return sum(t.numel() for n in request.networks for parts in n.embeddings.values() for t in parts.values())


def _add_embeddings(request: NetworksMergeOptions, file: GrowingFile) -> None:
    """Carry embeddings over: the first network's where two have one of the same name."""
    taken: set[str] = set()
    for network in request.networks:
        for name, parts in network.embeddings.items():
            if name not in taken:
                taken.add(name)
                file.add(f"bundle_emb.{name}", {part: tensor.to(request.dtype) for part, tensor in parts.items()})


def _result(save_to: Path, request: NetworksMergeOptions, found: list[Merged], size: int, notes: list[str], seconds: float) -> Result:
    total, left = sum(made.energy for made in found), sum(made.left for made in found)
    cancelled, found = [made.parameter for made in found if made.cancelled], [made for made in found if not made.cancelled]
    report: dict[str, Any] = {
        "modules": [{"parameter": m.parameter, "rank": m.rank, "error": relative(m.left, m.energy)} for m in found],
        "cancelled": cancelled,
        "skipped": [[network.name, *item] for network in request.networks for item in network.skipped],
        "captured": 1 - left / total if total else 1.0, "error": relative(left, total), "bytes": size, "seconds": round(seconds, 2),
    }  # fmt: skip
    report["notes"], report["metadata_left_out"] = notes, disagreed(sources_of(request))
    layers = counted(count_layers(made.parameter for made in found), "layer")
    apart = ", ".join(report["metadata_left_out"])
    lines = [
        f"{save_to.name}: {counted(len(request.networks), 'network')} in one, {layers}, {megabytes(size)}",
        _exactness(request, report),
        *cancelled_lines(cancelled),
        *left_out_of(request.networks),
        *([f"not said by all networks alike and left out: {apart}"] if apart else []),
        *notes,
    ]
    return Result(report, "\n".join(lines), (save_to,))


def _exactness(request: NetworksMergeOptions, report: Mapping[str, Any]) -> str:
    """Say how near the file is to what was asked for."""
    of_what = "the sum of what can be used of them" if report["skipped"] else "their sum"
    if request.method != "sum":
        of_what = f"what {request.method} makes of them, with {request.density:.0%} of the values of each"
    if request.linear is None:
        return f"exactly {of_what}"
    return f"kept {report['captured']:.2%} of the energy of {of_what} (relative error {report['error']:.2%})"
