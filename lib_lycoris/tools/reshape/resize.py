"""Lowers the rank of a network: the best approximation of every module, from QR decompositions of its factors, never the full size.

LoHa, LoKr and Tucker modules are expanded exactly first and leave as LoRA. What has no ranks (norms, biases, OFT, IA3, full differences)
stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch

from ...errors import ToolError, reason
from ...networks.reading.dtypes import precision_dtype
from ...networks.settings.name_patterns import LITERAL, found_in
from ...plain_json import read_json
from ...records import dataclass
from ...wording import counted
from ..declaration import ALPHA, FAMILY, IGNORED_KOHYA, NETWORK_PRECISION, SAVE_TO, FilePath, Option, Plan, Result, Tool, options_of
from ..files.foretold import piece_of
from ..files.networks.alpha import check_alpha
from ..files.networks.left_out import left_out
from ..files.networks.network_file import Patch, stored_dtype, style_of
from ..jobs.cost import cost
from ..jobs.progress import Progress
from ..linalg.low_rank import Svd, relative
from ..linalg.ranks import Rule, share_out
from ..units import MB, check_size, megabytes
from .shrink import Shrinking, Shrunk, UnchangedError, Writing, fixed_bytes, is_kernel, measured, opened, recipe_of, refuse_little, share

MOST_PATTERNS, MOST_EXPRESSIONS = 6_000, 200  # of a table of ranks: names of three times as many layers as any model has, and patterns
METHODS = ("sv_ratio", "sv_fro", "sv_cumulative")
RECORDED = ("new_rank", "new_conv_rank", "dynamic_method", "dynamic_param", "size", "alpha", "save_precision", "family")


@dataclass(frozen=True)
class ResizeOptions:
    """What is asked of a resize."""

    job: Shrinking
    linear: Rule
    conv: Rule
    by_name: tuple[tuple[Callable[[str], bool], int], ...]
    size: int | None

    def rule(self, patch: Patch) -> Rule:
        """Return the rule of a module."""
        return self.conv if is_kernel(patch) else self.linear

    def choose(self, patch: Patch, svd: Svd) -> int:
        """Return the rank that a module keeps, where no size is shared out."""
        for pattern, rank in self.by_name:
            if pattern(patch.name):
                return min(rank, svd.rank)
        return self.rule(patch).choose(svd.s, svd.total)


def run(
    model: FilePath, save_to: FilePath, *, new_rank: int | None = None, new_conv_rank: int | None = None,
    dynamic_method: str | None = None, dynamic_param: float | None = None, size: float | None = None,
    module_ranks: FilePath | None = None, base_model: FilePath | None = None, alpha: float | None = None,
    save_precision: str | None = None, family: str | None = None, progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Make a network smaller by lowering its rank, to a rank, a share of the singular values (`dynamic_method`) or a file size.

    The report holds old and new rank and relative error of every layer, and what has no ranks and stays as it is (`kept`).

    Raises:
        ToolError: an option is wrong, nothing says how large the network shall be, or it would stay as it is.
        NetworkFormatError: the file cannot be read.
    """
    return _run(progress or Progress(), options_of(locals()))


def _run(progress: Progress, options: Mapping[str, Any]) -> Result:
    started = time.monotonic()
    request = _understand(options)
    path, save_to = Path(options["model"]), Path(options["save_to"])
    writing = Writing(request.job, save_to, recipe_of("resize", path, options, RECORDED))
    ranks = _shared(request, writing.header, progress) if request.size else {}

    def comment(found: list[Shrunk]) -> str:
        _refuse_same(request, all(row.algorithm != "lora" or row.is_same for row in found))
        return _comment(options, found)

    def choose(patch: Patch, svd: Svd) -> int:
        return ranks[patch.name] if patch.name in ranks else request.choose(patch, svd)

    found, size = writing.write(choose, comment, progress)
    return _result(save_to, request, found, request.job.network.path.stat().st_size, size, time.monotonic() - started)


def plan(**options: Any) -> Plan:
    """Say which modules would be resized."""
    request = _understand(options)
    job = request.job
    writing = Writing(job, Path(options["save_to"]), recipe_of("resize", Path(options["model"]), options, RECORDED))
    ranks = _ranks(request, writing.header)
    whole = [patch for patch in job.work if patch.name not in ranks]
    able = [patch.name for patch in job.work if patch.name in ranks]
    _refuse_same(request, all(_stays(patch, ranks[patch.name]) for patch in job.work if patch.name in ranks))
    size = writing.header + fixed_bytes(job, whole)
    for patch in job.work:
        if ranks.get(patch.name):
            part = share(job, patch, torch.empty(0))
            size += part.fixed_bytes + ranks[patch.name] * part.bytes_per_rank
    report = {"matched": able, "unmatched": [list(item) for item in job.network.skipped]}
    before = job.network.path.stat().st_size
    text = f"resizes {len(able)} of {counted(len(job.work), 'layer')}; {megabytes(before)} -> {megabytes(size)}"
    text += "; the file grows" if size > before else ""
    text = "\n".join([text, *left_out(job.network.skipped)])
    took = cost(map(piece_of, job.work), before, size, rounds=2 if request.size else 1)
    return Plan(report, text, took.seconds, took.bytes, size)


def _ranks(request: ResizeOptions, header: int) -> dict[str, int]:
    """Return the rank of every module that has one: of the spectra where they decide, else without looking at them."""
    job = request.job
    if request.size:
        return _shared(request, header, Progress())
    if request.by_name or request.linear.kind != "fixed":
        return {patch.name: request.choose(patch, svd) for patch, svd in measured(job, Progress()) if svd is not None}
    most = {patch.name: (patch, _most_ranks(patch)) for patch in job.work}
    return {
        name: 0 if patch.algorithm.is_zero else min(rank, request.rule(patch).largest or rank)
        for name, (patch, rank) in most.items()
        if rank
    }


def _understand(options: Mapping[str, Any]) -> ResizeOptions:
    given = {**TOOL.defaults(), **options}
    method, value, rank = given["dynamic_method"], given["dynamic_param"], given["new_rank"]
    if method and value is None:
        raise ToolError(f"`dynamic_method={method}` needs `dynamic_param`")
    if value is not None and not method:
        raise ToolError(f"`dynamic_param={value:g}` is the limit of a method; choose one with `dynamic_method`, or leave it out")
    for name in ("new_rank", "new_conv_rank"):
        if given[name] is not None and given[name] < 1:
            raise ToolError(f"`{name}={given[name]}`: a network needs at least rank 1; prune leaves out modules that change nothing")
    conv = rank if given["new_conv_rank"] is None else given["new_conv_rank"]
    if not method and not given["size"] and not given["module_ranks"] and rank is None:
        raise ToolError("nothing says how large the network shall be; give `new_rank`, `dynamic_method` or `size`")
    network, work, _ = opened(given["model"], given["base_model"], given["family"])
    kind = method or "fixed"
    rules = (Rule(kind, value or 0.0, rank), Rule(kind, value or 0.0, conv))
    size = int(given["size"] * MB) if given["size"] else None
    style, dtype = style_of(network.modules.values()), precision_dtype(given["save_precision"], stored_dtype(network))
    job = Shrinking(network, work, style, dtype, check_alpha(given["alpha"], style))
    return ResizeOptions(job, *rules, _patterns(given["module_ranks"]), size)


def _patterns(path: Any) -> tuple[tuple[Callable[[str], bool], int], ...]:
    """Read {pattern of a canonical name: rank}; the first that is found in a name counts."""
    if not path:
        return ()
    name = Path(path).name
    try:
        table = read_json(Path(path))
        if not isinstance(table, dict) or any(type(rank) is not int or rank < 0 for rank in table.values()):
            raise ValueError("it must be one table whose values are whole numbers from 0 on")
        if len(table) > MOST_PATTERNS or sum(not LITERAL.fullmatch(pattern) for pattern in table) > MOST_EXPRESSIONS:
            raise ValueError(f"it has {len(table)} patterns, of which at most {MOST_PATTERNS}, {MOST_EXPRESSIONS} with signs, are read")
    except (OSError, ValueError) as error:
        raise ToolError(f"{name} is no table of ranks: {reason(error)}; write JSON with names, or parts of them, and ranks") from error
    for pattern in table:
        found_in(pattern, "", name)  # one that is not read is refused before anything is computed
    return tuple((partial(found_in, pattern, where=name), rank) for pattern, rank in table.items())


def _most_ranks(patch: Patch) -> int:
    """Return how many ranks a module can keep; 0 where it has none."""
    if patch.leaf != "weight" or len(patch.shape) < 2:
        return 0
    pair = patch.algorithm.direction.low_rank(patch.shape)
    return 0 if pair is None else min(pair[0].shape[1], patch.shape[0], prod(patch.shape[1:]))


def _shared(request: ResizeOptions, header: int, progress: Progress) -> dict[str, int]:
    """Return the rank of every module for a file of the size asked for."""
    assert request.size is not None
    job, shares, whole = request.job, {}, []
    for patch, svd in measured(job, progress):
        if svd is None:
            whole.append(patch)
        else:
            shares[patch.name] = share(job, patch, svd.s[: request.rule(patch).largest or svd.rank])
    room = request.size - header - fixed_bytes(job, whole)
    refuse_little(job, request.size, room)
    return dict(zip(shares, share_out(list(shares.values()), room), strict=True))


def _stays(patch: Patch, rank: int) -> bool:
    """Tell whether a module of the new file is the one of the old: a LoRA of the rank that it had."""
    return patch.algorithm.name == "lora" and patch.algorithm.rank == rank


def _refuse_same(request: ResizeOptions, same: bool) -> None:
    """Raise ToolError where the new file would be the old one; ``same``: every layer that has ranks is."""
    job = request.job
    if same and not job.network.skipped and job.alpha is None and job.dtype == stored_dtype(job.network):
        name = job.network.path.name
        raise UnchangedError(f"nothing to resize: no layer of {name} has more ranks than were asked for; nothing was written")


def _comment(options: Mapping[str, Any], found: list[Shrunk]) -> str:
    old, new = ({getattr(r, key) for r in found if r.algorithm == "lora"} for key in ("old", "new"))
    ranks = [str(next(iter(s))) if len(s) == 1 else "dynamic ranks" for s in (old, new)]
    method = options.get("dynamic_method")
    return f"resized from {ranks[0]} to {ranks[1]}" + (f" by {method} {options['dynamic_param']:g}" if method else "")


def _result(save_to: Path, request: ResizeOptions, found: list[Shrunk], before: int, after: int, seconds: float) -> Result:
    job = request.job
    total, left = sum(row.energy for row in found), sum(row.left for row in found)
    changed = [row for row in found if row.algorithm == "lora"]
    same = [row for row in changed if row.is_same]
    report: dict[str, Any] = {
        "modules": [{"module": r.module, "old": r.old, "new": r.new, "error": relative(r.left, r.energy)} for r in changed],
        "kept": [[row.module, row.algorithm] for row in found if row.algorithm != "lora"],
        "skipped": [list(item) for item in job.network.skipped],
        "captured": 1 - left / total if total else 1.0,
        "error": relative(left, total),
        "resized": len(changed) - len(same),
        "bytes_before": before, "bytes": after, "seconds": round(seconds, 2),
    }  # fmt: skip
    dora, expanded = any(patch.algorithm.magnitudes() for patch in job.work), sum(row.before != "lora" for row in changed)
    why = f"{counted(expanded, 'layer')} of other algorithms became LoRA" if expanded else "its header or its dtype takes more room"
    as_before = len(report["kept"]) + len(same)
    lines = [
        f"{save_to.name}: {counted(len(changed) - len(same), 'layer')} resized{f', {as_before} kept as they were' if as_before else ''}; "
        f"{megabytes(before)} -> {megabytes(after)}",
        f"kept {report['captured']:.2%} of the energy (relative error {report['error']:.2%})",
        *left_out(job.network.skipped),
        *([f"unchanged, for the rank is no higher than asked: {counted(len(same), 'layer')}"] if same else []),
        *([f"alpha is {job.alpha:g} now, and the change is the same"] if job.alpha is not None else []),
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
        Option("new_conv_rank", "rank of convolutions (default: `new_rank`)", int),
        Option("dynamic_method", "choose each layer's rank by its singular values", choices=METHODS),
        Option("dynamic_param", "the method's limit - sv_ratio: largest over smallest value; sv_fro: share of norm, sv_cumulative: of sum",
               float),
        Option("size", "size of the new file in MB; ranks are shared out over the layers", float, check=check_size),
        Option("module_ranks", "JSON file of names, or patterns such as attn[12], and their ranks", Path, kind="file"),
        Option("base_model", "the checkpoint, for networks of a model of unusual size", Path, kind="checkpoint"),
        ALPHA,
        NETWORK_PRECISION,
        FAMILY,
        Option("device", "", ignored="`device` is not needed: resizing takes a moment on any processor"),
        Option("verbose", "", bool, ignored="`verbose` is not needed: the report has every module"),
        *IGNORED_KOHYA[:2],
    ),
)  # fmt: skip
