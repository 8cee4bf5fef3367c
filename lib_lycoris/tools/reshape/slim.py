"""A network without some of its blocks or kinds of layers, the rest in as many ranks as a file size or an error leaves room for.

Each layer keeps the form that is worth its bytes: fewer ranks as a LoRA, itself as it is, or nothing. Works on every algorithm; what has no
ranks, or depends on base weights that are not given, stays whole.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from ...errors import ToolError
from ...models import block_of
from ...networks import Network
from ...networks.reading.dtypes import precision_dtype
from ...prompt.elements import ElementRule, expand_blocks
from ...prompt.strength import flat_name
from ...records import dataclass
from ...wording import counted
from ..declaration import ALPHA, FAMILY, NETWORK_PRECISION, SAVE_TO, FilePath, Option, Plan, Result, Texts, Tool, as_list, options_of
from ..extract.difference import Reader
from ..files.foretold import piece_of
from ..files.networks.alpha import check_alpha
from ..files.networks.left_out import left_out
from ..files.networks.network_file import Patch, stored_dtype, style_of
from ..jobs.cost import cost
from ..jobs.progress import Progress
from ..linalg.expand import plain_delta
from ..linalg.frontier import Choice, Step, steps, within_bytes, within_error
from ..linalg.low_rank import Svd, energy, relative
from ..units import MB, check_size, megabytes
from .shrink import (
    Shrinking,
    Shrunk,
    UnchangedError,
    Writing,
    decomposed_whole,
    fixed_bytes,
    measured,
    numbers,
    opened,
    recipe_of,
    refuse_little,
    share,
)  # fmt: skip

POINTS = 16  # of the curve in the report
SHOWN = 6  # of them in the text
RECORDED = ("blocks", "elements", "size", "error", "new_rank", "alpha", "save_precision", "family")


@dataclass(frozen=True)
class SlimOptions:
    """What is asked for: what goes, and how far the rest is cut."""

    job: Shrinking
    dropped: Sequence[Patch]
    weights: Reader | None
    size: int | None  # bytes
    error: float | None  # relative, of the whole old change
    largest: int | None


@dataclass(frozen=True, eq=False)
class Measured:
    """The choices of every layer, in the order that is best for any size; energies are squared Frobenius norms."""

    patches: list[Patch]  # that have choices
    whole: list[Patch]  # that stay as they are
    order: list[Step]
    fixed: int  # bytes that are written whatever is chosen
    total: float  # energy of the whole old change, as far as it is known
    gone: float  # energy of what is left out by name
    least: float  # energy that a file with none of the patches would leave

    def curve(self, header: int) -> list[dict[str, float]]:
        """Return size and error of some of the files that could be made, smallest first."""
        bytes_, left = header + self.fixed, self.least
        found = []
        for step in self.order:
            bytes_, left = bytes_ + step.bytes, left - step.energy
            found.append({"bytes": bytes_, "error": relative(max(left, 0.0), self.total)})
        picked = sorted({round(index * (len(found) - 1) / (POINTS - 1)) for index in range(POINTS)}) if found else []
        return [found[index] for index in picked]


def run(
    model: FilePath, save_to: FilePath, *, blocks: Texts | None = None, elements: Texts | None = None, size: float | None = None,
    error: float | None = None, new_rank: int | None = None, base_model: FilePath | None = None, alpha: float | None = None,
    save_precision: str | None = None, family: str | None = None, progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Leave out blocks or kinds of layers of a network and cut the rest to a file size or an error, layer by layer as it pays.

    The report holds the curve of size and error, what was left out (`dropped`), and the form of every layer that is left.

    Raises:
        ToolError: an option is wrong, a block or a kind is in no layer, or nothing would be left or changed.
        NetworkFormatError: the file cannot be read.
    """
    return _run(progress or Progress(), options_of(locals()))


def _run(progress: Progress, options: Mapping[str, Any]) -> Result:
    started = time.monotonic()
    request = _understand(options)
    path, save_to = Path(options["model"]), Path(options["save_to"])
    try:
        writing = Writing(request.job, save_to, recipe_of("slim", path, options, RECORDED))
        found = _measure(request, progress)
        chosen = _chosen(request, found, writing.header)
        _refuse_same(request, found, chosen)
        rows, size = writing.write(lambda patch, _: _rank(chosen, patch), lambda rows: _comment(request, rows), progress)
    finally:
        if request.weights is not None:
            request.weights.close()
    facts = {"bytes_before": request.job.network.path.stat().st_size, "bytes": size, "seconds": round(time.monotonic() - started, 2)}
    report = {**_report(request, found, chosen, writing.header), **facts}
    report["modules"] = [{"module": row.module, "algorithm": row.algorithm, "rank": row.new} for row in rows if row.new != 0]
    return Result(report, _text(save_to.name, report), (save_to,))


def plan(**options: Any) -> Plan:
    """Say what would be left out and cut, and how large the file would be."""
    request = _understand(options)
    try:
        found = _measure(request, Progress())
        writing = Writing(request.job, Path(options["save_to"]), recipe_of("slim", Path(options["model"]), options, RECORDED))
        chosen = _chosen(request, found, writing.header)
        _refuse_same(request, found, chosen)
    finally:
        if request.weights is not None:
            request.weights.close()
    report = _report(request, found, chosen, writing.header)
    size = writing.header + found.fixed + sum(choice.bytes for choice in chosen.values())
    before = request.job.network.path.stat().st_size
    text = f"would leave out {counted(len(report['dropped']), 'layer')}; " if report["dropped"] else ""
    text += f"{megabytes(before)} -> {megabytes(size)}, relative error {report['error']:.4f}"
    text = "\n".join([text, *left_out(report["unmatched"]), *report["notes"]])
    took = cost([piece_of(patch, whole=True) for patch in request.job.work], before, size, rounds=2)
    return Plan(report, text, took.seconds, took.bytes, size)


def _understand(options: Mapping[str, Any]) -> SlimOptions:
    given = {**TOOL.defaults(), **options}
    if not any(given[name] for name in ("blocks", "elements", "size", "error", "new_rank")):
        raise ToolError("nothing says what is to go; give `blocks` or `elements`, `size`, `error` or `new_rank`")
    if given["size"] and given["error"] is not None:
        raise ToolError("`size` and `error` cannot both be met; give one of them")
    if given["error"] is not None and not 0 < given["error"] < 1:
        raise ToolError(f"`error={given['error']:g}` is relative to the whole change: above 0 and below 1")
    if given["new_rank"] is not None and given["new_rank"] < 1:
        raise ToolError(f"`new_rank={given['new_rank']}`: a network needs at least rank 1")
    network, work, checkpoint = opened(given["model"], given["base_model"], given["family"])
    gone = _selected(network, work, as_list(given["blocks"]), as_list(given["elements"]))
    if len(gone) == len(work):
        raise ToolError(f"all {len(work)} layers of {network.path.name} would be left out; nothing was written")
    weights = Reader(checkpoint) if checkpoint else None
    style, dtype = style_of(network.modules.values()), precision_dtype(given["save_precision"], stored_dtype(network))
    left = [patch for patch in work if patch.name not in gone]
    most = given["new_rank"]
    job = Shrinking(network, left, style, dtype, check_alpha(given["alpha"], style), lambda patch: decomposed_whole(patch, weights, most))
    size = int(given["size"] * MB) if given["size"] else None
    return SlimOptions(job, [p for p in work if p.name in gone], weights, size, given["error"], most)


def _selected(network: Network, work: Sequence[Patch], blocks: Sequence[str], elements: Sequence[str]) -> set[str]:
    """Return the parameters that blocks and kinds of layers name. Raises ToolError for one that names none."""
    if not blocks and not elements:
        return set()
    texts = {patch.name: flat_name(patch.name) + (block_of(patch.name, network.family) or "") for patch in work}
    for words in (expand_blocks(" ".join(blocks))[1], [word for word in elements if word != "NOT"]):
        if words and not any(word in text for word in words for text in texts.values()):
            known = sorted({block for name in texts if (block := block_of(name, network.family))})
            its = f"its blocks are {', '.join(known) or 'not known'}; its layers have names such as {next(iter(texts))}"
            raise ToolError(f"no layer of {network.path.name} is in {', '.join(words)}; {its}")
    rule = ElementRule(" ".join(blocks), " ".join(elements), 0.0)
    return {name for name, text in texts.items() if rule.matches(text)}


def _measure(request: SlimOptions, progress: Progress) -> Measured:
    job = request.job
    able: list[Patch] = []
    whole: list[Patch] = []
    choices: list[list[Choice]] = []
    known = least = 0.0
    for patch, svd in measured(job, progress):
        if svd is None:
            whole.append(patch)
            known += _plain_energy(patch)
        else:
            able.append(patch)
            choices.append(_choices(request, patch, svd))
            least += svd.total
    gone = sum(svd.total if (svd := job.decompose(patch)) else _plain_energy(patch) for patch in request.dropped)
    return Measured(able, whole, steps(choices), fixed_bytes(job, whole), known + least + gone, gone, least + gone)


def _plain_energy(patch: Patch) -> float:
    """Return the energy of a change that has no decomposition; 0 where it depends on a base weight."""
    return 0.0 if patch.algorithm.reads_weight else energy(plain_delta(patch.algorithm, patch.shape))


def _choices(request: SlimOptions, patch: Patch, svd: Svd) -> list[Choice]:
    cost = share(request.job, patch, svd.s)
    most = min(svd.rank, request.largest or svd.rank)
    sums = svd.s[:most].double().square().cumsum(0).tolist()
    found = [Choice(cost.fixed_bytes + rank * cost.bytes_per_rank, sums[rank - 1], rank) for rank in range(1, most + 1)]
    rank = patch.algorithm.rank
    if request.largest is not None and (rank is None or rank > request.largest):
        return found
    own = numbers(patch) * request.job.width
    return [*(choice for choice in found if choice.bytes < own), Choice(own, svd.total, None)] if svd.total else []


def _chosen(request: SlimOptions, found: Measured, header: int) -> dict[str, Choice]:
    """Return parameter -> form; what is not in it is left out."""
    if request.size is not None:
        room = request.size - header - found.fixed
        refuse_little(request.job, request.size, room)
        picked = within_bytes(found.order, room)
    else:
        allowed = 0.0 if request.error is None else request.error**2 * found.total
        picked = within_error(found.order, found.least, allowed)
        if request.error is not None and found.gone > allowed:
            raise ToolError(
                f"what is left out alone makes a relative error of {relative(found.gone, found.total):.4f}, "
                f"more than `error={request.error:g}`; leave out less, or allow more"
            )
    return {found.patches[index].name: choice for index, choice in picked.items()}


def _rank(chosen: Mapping[str, Choice], patch: Patch) -> int | None:
    return chosen[patch.name].rank if patch.name in chosen else 0


def _refuse_same(request: SlimOptions, found: Measured, chosen: Mapping[str, Choice]) -> None:
    """Raise ToolError where the new file would be the old one, or hold nothing."""
    job = request.job
    if not chosen and not found.fixed:
        raise ToolError(f"no layer of {job.network.path.name} would be left; nothing was written")
    same = all(_rank(chosen, patch) is None for patch in found.patches) and not request.dropped and not job.network.skipped
    if same and job.alpha is None and job.dtype == stored_dtype(job.network):
        raise UnchangedError(f"nothing to slim: {job.network.path.name} meets what was asked for as it is; nothing was written")


def _comment(request: SlimOptions, rows: Sequence[Shrunk]) -> str:
    lowered = sum(row.algorithm == "lora" and not row.is_same for row in rows)
    return f"slimmed: {counted(len(request.dropped), 'layer')} left out, {lowered} in fewer ranks"


def _report(request: SlimOptions, found: Measured, chosen: Mapping[str, Choice], header: int) -> dict[str, Any]:
    captured = sum(choice.energy for choice in chosen.values())
    unknown = sum(patch.algorithm.reads_weight for patch in found.whole)
    notes = (
        [f"as they are, for they depend on base weights: {counted(unknown, 'layer')}; give `base_model` to cut them too"] if unknown else []
    )
    return {
        "matched": [patch.name for patch in request.job.work],
        "unmatched": [list(item) for item in request.job.network.skipped],
        "dropped": [patch.name for patch in request.dropped] + [p.name for p in found.patches if p.name not in chosen],
        "error": relative(max(found.least - captured, 0.0), found.total), "norm": sqrt(found.total),
        "curve": found.curve(header), "notes": notes,
    }  # fmt: skip


def _text(name: str, report: Mapping[str, Any]) -> str:
    kept, dropped = report["modules"], report["dropped"]
    layers = f"{counted(len(dropped), 'layer')} left out, {len(kept)} kept" if dropped else f"{counted(len(kept), 'layer')} kept"
    lines = [
        f"{name}: {megabytes(report['bytes_before'])} -> {megabytes(report['bytes'])}; {layers}, relative error {report['error']:.4f}",
        "what other sizes would leave:",
    ]
    curve = report["curve"]
    picked = curve[:: max(1, len(curve) // SHOWN)]
    lines += [f"  {megabytes(point['bytes']):>9}: relative error {point['error']:.4f}" for point in picked]
    return "\n".join([*lines, *left_out(report["unmatched"]), *report["notes"]])


TOOL = Tool(
    "slim", "Slim", "leave out blocks or kinds of layers and cut the rest to a size or an error", run, plan,
    (
        Option("model", "the network file", Path, required=True, kind="network"),
        SAVE_TO,
        Option("blocks", "blocks to leave out: IN01, IN05-OUT05, BASE; NOT before them leaves out all others", nargs="+"),
        Option("elements", "kinds of layers to leave out, by a part of their names: attn1, ff, to_k; in the blocks given, else in all",
               nargs="+"),
        Option("size", "size of the new file in MB", float, check=check_size),
        Option("error", "relative error of the whole that is allowed, such as 0.1, what is left out counted", float),
        Option("new_rank", "largest rank of a layer", int),
        Option("base_model", "the checkpoint, for changes that depend on its weights or networks of a model of unusual size", Path,
               kind="checkpoint"),
        ALPHA,
        NETWORK_PRECISION,
        FAMILY,
    ),
)  # fmt: skip
