"""A network with fewer ranks: the best approximation of every module, from QR decompositions of its factors, never the full size.

LoHa, LoKr and Tucker modules are expanded exactly first and leave as LoRA. What has no ranks (norms, biases, OFT, IA3, full differences)
stays as it is.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ToolError
from ...networks import Network, load
from ..declaration import IGNORED_KOHYA, SAVE_TO, FilePath, Option, Plan, Result, Tool, options_of
from ..files.checkpoint import open_checkpoint
from ..files.growing import GrowingFile, dtype_of, header_room
from ..files.metadata import describe, make_recipe
from ..files.naming import lora, to_dtype
from ..files.network_file import Patch, bundled, carried, patches, stored_dtype, style_of, with_own
from ..files.output import refuse_inputs
from ..files.reading_back import ReadingBack
from ..jobs.progress import Progress
from ..jobs.workers import count, one_thread_each, ordered
from ..linalg.low_rank import Svd, qr_svd, relative
from ..linalg.ranks import Rule, Share, share_out

METHODS = ("sv_ratio", "sv_fro", "sv_cumulative")
MIB = 1 << 20
RECORDED = ("new_rank", "new_conv_rank", "dynamic_method", "dynamic_param", "size", "save_precision")


@dataclass(frozen=True)
class Resized:
    """One module of the new file, and how it differs from the old one."""

    module: str
    old: int | None
    new: int | None
    energy: float
    left: float
    algorithm: str
    before: str = ""  # algorithm of the old file, where the new one is made from its change


@dataclass(frozen=True)
class ResizeOptions:
    """What is asked of a resize."""

    network: Network
    work: list[Patch]
    linear: Rule
    conv: Rule
    by_name: tuple[tuple[re.Pattern[str], int], ...]
    size: int | None
    style: str
    dtype: torch.dtype


def run(
    model: FilePath, save_to: FilePath, *, new_rank: int | None = None, new_conv_rank: int | None = None,
    dynamic_method: str | None = None, dynamic_param: float | None = None, size: float | None = None,
    module_ranks: FilePath | None = None, base_model: FilePath | None = None, save_precision: str | None = None,
    progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Make a network smaller by lowering its rank, to a rank, a share of the singular values (`dynamic_method`) or a file size.

    The report holds old and new rank and relative error of every layer, and what has no ranks and stays as it is (`kept`).

    Raises:
        ToolError: an option is wrong, or nothing says how large the network shall be.
        NetworkFormatError: the file cannot be read.
    """
    return _run(progress or Progress(), options_of(locals()))


def _run(progress: Progress, options: Mapping[str, Any]) -> Result:
    started = time.monotonic()
    request = _understand(options)
    path, save_to = Path(options["model"]), Path(options["save_to"])
    refuse_inputs(save_to, [path])
    network = request.network
    recipe = make_recipe("resize", model=describe(path), **{k: options[k] for k in RECORDED if options.get(k) is not None})
    keys = sum(max(4, len(patch.algorithm.tensors()) + 1) for patch in request.work) + sum(map(len, network.embeddings.values()))
    longest = max(map(len, network.modules.values()), default=0) + 20
    reading = ReadingBack(network, save_to, request.style)
    old = carried(network.metadata, recipe, (), settings=reading.room)
    ranks = _shared(request, header_room(keys, longest, old), progress) if request.size else {}
    found: list[Resized] = []
    with GrowingFile(save_to, keys, longest, old) as file:
        progress.start(len(request.work), "resizing", "modules")
        for row, kept, tensors in ordered(lambda patch: _resize(request, patch, ranks), request.work, count()):
            if tensors:
                reading.check(row.module, tensors, kept)
                file.add(row.module, tensors)
            found.append(row)
            progress.advance(1, row.module)
        if found and not file.keys:
            raise ToolError(f"every layer of {path.name} is zero, so no rank is left to keep; nothing was written")
        for name, parts in bundled(network):
            file.add(name, {part: tensor.to(request.dtype) for part, tensor in parts.items()})
        plain = all(row.algorithm == "lora" for row in found)
        kept_settings = reading.metadata
        file.finish(carried(network.metadata, recipe, [row.new for row in found], plain, _comment(options, found), kept_settings))
        size = file.size
    return _result(save_to, request, found, path.stat().st_size, size, time.monotonic() - started)


def plan(**options: Any) -> Plan:
    """Say which modules would be resized."""
    request = _understand(options)
    most = {patch.name: _most_ranks(patch) for patch in request.work}
    able = [name for name, rank in most.items() if rank]
    report = {"matched": able, "unmatched": [list(item) for item in request.network.skipped]}
    size = request.size or _bytes(request, most)
    memory = 4 * Path(options["model"]).stat().st_size
    return Plan(report, f"{len(able)} of {len(request.work)} modules have ranks and are resized", 0.003 * len(able), memory, size)


def _understand(options: Mapping[str, Any]) -> ResizeOptions:
    given = {**TOOL.defaults(), **options}
    method, value = given["dynamic_method"], given["dynamic_param"]
    if method and value is None:
        raise ToolError(f"--dynamic_method {method} needs --dynamic_param")
    for name in ("new_rank", "new_conv_rank"):
        if given[name] is not None and given[name] < 1:
            raise ToolError(f"--{name} {given[name]}: a network needs at least rank 1; `prune` leaves out modules that change nothing")
    rank = given["new_rank"]
    conv = rank if given["new_conv_rank"] is None else given["new_conv_rank"]
    if not method and not given["size"] and not given["module_ranks"] and rank is None:
        raise ToolError("nothing says how large the network shall be; give --new_rank, --dynamic_method or --size")
    checkpoint = open_checkpoint(given["base_model"]) if given["base_model"] else None
    network = load(given["model"], checkpoint.base if checkpoint else None)
    work = with_own(patches(network, checkpoint.base if checkpoint else network.base))
    kind = method or "fixed"
    rules = (Rule(kind, value or 0.0, rank), Rule(kind, value or 0.0, conv))
    size = int(given["size"] * MIB) if given["size"] else None
    dtype = dtype_of(given["save_precision"], stored_dtype(network))
    return ResizeOptions(network, work, *rules, _patterns(given["module_ranks"]), size, style_of(network.modules.values()), dtype)


def _patterns(path: Any) -> tuple[tuple[re.Pattern[str], int], ...]:
    """Read {regular expression of a canonical name: rank}; the first that is found in a name counts."""
    if not path:
        return ()
    try:
        table = json.loads(Path(path).read_text("utf-8"))
        return tuple((re.compile(key), int(value)) for key, value in table.items())
    except (OSError, ValueError, AttributeError, re.error) as error:
        raise ToolError(
            f"{Path(path).name} is no table of ranks: {error}; write a JSON file with names, or parts of them, and ranks"
        ) from error


def _most_ranks(patch: Patch) -> int:
    """Return how many ranks a module can keep; 0 where it has none."""
    inner = patch.algorithm.direction
    if patch.leaf != "weight" or len(patch.shape) < 2 or inner.rank is None:
        return 0
    pair = inner.low_rank(patch.shape)
    return 0 if pair is None else min(pair[0].shape[1], patch.shape[0], prod(patch.shape[1:]))


def _bytes(request: ResizeOptions, most: Mapping[str, int]) -> int:
    """Return how large the file can become."""
    numbers = sum(tensor.numel() for parts in request.network.embeddings.values() for tensor in parts.values())
    for patch in request.work:
        if most[patch.name]:
            rank = min(most[patch.name], _rule(request, patch).largest or most[patch.name])
            numbers += rank * (patch.shape[0] + prod(patch.shape[1:])) + 1
        else:
            numbers += sum(tensor.numel() for tensor in patch.algorithm.to_state_dict().values())
    return numbers * torch.empty(0, dtype=request.dtype).element_size() + 500 * len(request.work)


def decomposed(patch: Patch) -> Svd | None:
    """Return the decomposition of a module's change, of what a DoRA scales; None where it has no ranks."""
    if patch.leaf != "weight" or len(patch.shape) < 2:
        return None
    pair = patch.algorithm.direction.low_rank(patch.shape)
    return None if pair is None else qr_svd(*pair)


def _rule(request: ResizeOptions, patch: Patch) -> Rule:
    return request.conv if prod(patch.shape[2:]) > 1 else request.linear


def _chosen(request: ResizeOptions, patch: Patch, svd: Svd, ranks: Mapping[str, int]) -> int:
    if patch.name in ranks:
        return ranks[patch.name]
    for pattern, rank in request.by_name:
        if pattern.search(patch.name):
            return min(rank, svd.rank)
    return _rule(request, patch).choose(svd.s, svd.total)


def _resize(request: ResizeOptions, patch: Patch, ranks: Mapping[str, int]) -> tuple[Resized, Patch | None, dict[str, Tensor]]:
    """Return what became of a module, its change where it is kept, and its tensors."""
    module = request.network.modules[patch.name]
    svd, whose = decomposed(patch), f"{request.network.path.name}: {module}"
    if svd is None:
        tensors = to_dtype(patch.algorithm.to_state_dict(), request.dtype, whose)
        return Resized(module, patch.algorithm.rank, patch.algorithm.rank, 0.0, 0.0, patch.algorithm.name), patch, tensors
    rank = _chosen(request, patch, svd, ranks)
    left = float(svd.s[rank:].double().square().sum())
    row = Resized(module, patch.algorithm.rank, rank, svd.total, left, "lora", patch.algorithm.name)
    if not rank:
        return row, None, {}
    up, down = svd.factors(rank)
    tensors = lora(request.style, up.contiguous(), down.contiguous(), patch.shape[2:])
    tensors.update({suffix: magnitude.float() for suffix, magnitude in patch.algorithm.magnitudes().items()})
    return row, None, to_dtype(tensors, request.dtype, whose)


def _shared(request: ResizeOptions, header: int, progress: Progress) -> dict[str, int]:
    """Return the rank of every module for a file of the size asked for."""
    assert request.size is not None
    width, room, shares, names = torch.empty(0, dtype=request.dtype).element_size(), request.size - header, [], []
    progress.start(len(request.work), "measuring", "modules")
    with one_thread_each():
        for patch in request.work:
            svd = decomposed(patch)
            if svd is None:
                room -= sum(t.numel() for t in patch.algorithm.to_state_dict().values()) * width
            else:
                limit = _rule(request, patch).largest or svd.rank
                extra = sum(magnitude.numel() for magnitude in patch.algorithm.magnitudes().values())
                shares.append(Share(svd.s[:limit].clone(), (patch.shape[0] + prod(patch.shape[1:])) * width, (1 + extra) * width))
                names.append(patch.name)
            progress.advance(1, patch.name)
    room -= sum(t.numel() for parts in request.network.embeddings.values() for t in parts.values()) * width
    if room <= 0:
        raise ToolError(f"{request.size / MIB:.2f} MiB is too little: what has no ranks takes {(request.size - room) / MIB:.2f} MiB")
    return dict(zip(names, share_out(shares, room), strict=True))


def _comment(options: Mapping[str, Any], found: list[Resized]) -> str:
    old, new = ({getattr(r, key) for r in found if r.algorithm == "lora"} for key in ("old", "new"))
    ranks = [str(next(iter(s))) if len(s) == 1 else "dynamic ranks" for s in (old, new)]
    method = options.get("dynamic_method")
    return f"resized from {ranks[0]} to {ranks[1]}" + (f" by {method} {options['dynamic_param']:g}" if method else "")


def _result(save_to: Path, request: ResizeOptions, found: list[Resized], before: int, after: int, seconds: float) -> Result:
    total, left = sum(row.energy for row in found), sum(row.left for row in found)
    changed = [row for row in found if row.algorithm == "lora"]
    same = [row for row in changed if (row.before, row.old) == (row.algorithm, row.new)]
    report: dict[str, Any] = {
        "modules": [{"module": r.module, "old": r.old, "new": r.new, "error": relative(r.left, r.energy)} for r in changed],
        "kept": [[row.module, row.algorithm] for row in found if row.algorithm != "lora"],
        "skipped": [list(item) for item in request.network.skipped],
        "captured": 1 - left / total if total else 1.0,
        "error": relative(left, total),
        "resized": len(changed) - len(same),
        "bytes_before": before, "bytes": after, "seconds": round(seconds, 2),
    }  # fmt: skip
    dora, expanded = any(patch.algorithm.magnitudes() for patch in request.work), sum(row.before != "lora" for row in changed)
    why = f"{expanded} modules of other algorithms are LoRA now" if expanded else "its header or its dtype takes more room"
    lines = [
        f"{save_to.name}: {len(changed) - len(same)} modules resized, {len(report['kept'])} kept as they were; "
        f"{before / MIB:.1f} -> {after / MIB:.1f} MiB",
        f"kept {report['captured']:.2%} of the energy (relative error {report['error']:.4f})",
        *([f"{len(request.network.skipped)} keys of the file are for no layer and were left out"] if request.network.skipped else []),
        *([f"{len(same)} modules have no more than the rank that was asked for and keep it"] if same else []),
        *([f"the file is larger than before; {why}"] if after > before else []),
        *(["DoRA's magnitudes are kept; errors are those of what they scale"] if dora else []),
    ]
    return Result(report, "\n".join(lines), (save_to,))


TOOL = Tool(
    "resize", "Resize", "make a network smaller by lowering its rank", run, plan,
    (
        Option("model", "the network file", Path, required=True, kind="network"),
        SAVE_TO,
        Option("new_rank", "rank, or with a method or a size the largest rank, of linear and 1x1 layers", int),
        Option("new_conv_rank", "the same for convolutions (default: new_rank)", int),
        Option("dynamic_method", "choose each module's rank by its singular values", choices=METHODS),
        Option("dynamic_param", "sv_ratio: largest over smallest value; sv_fro: share of the norm, sv_cumulative: of the sum", float),
        Option("size", "size of the new file in MiB; ranks are shared out over the modules", float),
        Option("module_ranks", "JSON file of names (regular expressions) and their ranks", Path, kind="file"),
        Option("base_model", "the checkpoint, for networks of a model of unusual size", Path, kind="checkpoint"),
        Option("save_precision", "dtype of the file (default: as it is)", choices=("fp32", "fp16", "bf16", "float")),
        Option("device", "", ignored="--device is not needed: resizing takes a moment on any processor"),
        Option("verbose", "", bool, ignored="--verbose is not needed: the report has every module"),
        *IGNORED_KOHYA[:2],
    ),
)  # fmt: skip
