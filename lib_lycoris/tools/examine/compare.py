"""Networks, side by side: what each changes and how much, block by block, and how far they work in the same directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import sqrt
from pathlib import Path
from typing import Any

from ... import models
from ...errors import ModelMismatchError, ToolError
from ...models import block_of, count_layers
from ...networks import Network, load
from ...networks.loading import family_of_all
from ...wording import counted
from ..declaration import FAMILY, MODELS, FilePath, Files, Option, Plan, Result, Tool, as_list, options_of
from ..extract.difference import Reader
from ..files.checkpoints.checkpoint import open_checkpoint
from ..files.foretold import piece_of
from ..files.networks.network_file import patches
from ..jobs.cost import cost
from ..jobs.progress import Progress
from ..jobs.workers import count, ordered
from .spectra import SPIKE, Spectrum, inner, overlap, spectrum

CLASH = 0.3  # |cosine| from which two networks are said to reinforce or to weaken each other
REST = "-"  # what no block holds


def run(
    models: Files, base_model: FilePath | None = None, *, family: str | None = None, progress: Progress | None = None
) -> Result:  # fmt: skip
    """Compare networks, or describe one: norms by block, singular values of every layer, and cosine and overlap of every pair.

    Raises:
        ModelMismatchError: the networks are for different base models.
        NetworkFormatError: a file cannot be read.
    """
    return _run(progress or Progress(), options_of(locals()))


def _run(progress: Progress, options: Mapping[str, Any]) -> Result:
    networks, weights, base = _understand(options)
    spectra: list[dict[str, Spectrum]] = []
    missing: list[list[str]] = []
    try:
        for network in networks:
            work = patches(network, base)
            progress.start(len(work), f"measuring {network.name}", "layers")
            found: dict[str, Spectrum] = {}
            for patch, measured in zip(work, ordered(lambda item: spectrum(item, weights), work, count()), strict=True):
                if measured is None:
                    missing.append([network.name, patch.name, f"{patch.algorithm.name} depends on the base weight; give `base_model`"])
                else:
                    found[patch.name] = measured
                progress.advance(1, patch.name)
            spectra.append(found)
    finally:
        if weights is not None:
            weights.close()
    report = {
        "family": base.family,
        "networks": [_described(network, found, base.family) for network, found in zip(networks, spectra, strict=True)],
        "pairs": [
            _pair(networks[a].name, networks[b].name, spectra[a], spectra[b], base.family) for a, b in combinations(range(len(networks)), 2)
        ],
        "not_measured": missing,
    }
    return Result(report, _text(report))


def plan(**options: Any) -> Plan:
    """Say what would be compared."""
    networks, weights, base = _understand(options)
    if weights is not None:
        weights.close()
    work = [patch for network in networks for patch in patches(network, base)]
    pieces = [piece_of(patch, whole=True) for patch in work]
    # the factors of all stay in memory, and those of every pair are looked at together
    took = cost(pieces, sum(network.path.stat().st_size for network in networks), 0, rounds=len(networks))
    memory = took.bytes + 4 * sum(piece.sides * piece.rank for piece in pieces)
    text = f"compares {counted(len(networks), 'network')}, {counted(count_layers(patch.name for patch in work), 'layer')}"
    return Plan({"matched": [patch.name for patch in work], "unmatched": []}, text, took.seconds, memory, 0)


def _understand(options: Mapping[str, Any]) -> tuple[list[Network], Reader | None, models.BaseModel]:
    paths = [Path(path) for path in as_list(options.get("models"))]
    if not paths:
        raise ToolError("no network is given; name at least one file as `models`")
    checkpoint = open_checkpoint(options["base_model"]) if options.get("base_model") else None
    family = options.get("family") or (None if checkpoint else family_of_all(paths))
    networks = [load(path, checkpoint.base if checkpoint else None, family=family) for path in paths]
    families = {network.family for network in networks}
    if len(families) > 1:
        raise ModelMismatchError(f"the networks are for different models ({', '.join(sorted(families))}); compare those of one family")
    base = checkpoint.base if checkpoint else models.together(network.base for network in networks)
    return networks, Reader(checkpoint) if checkpoint else None, base


def _described(network: Network, found: Mapping[str, Spectrum], family: str) -> dict[str, Any]:
    blocks: dict[str, list[Spectrum]] = {}
    for name, item in found.items():
        blocks.setdefault(block_of(name, family) or REST, []).append(item)
    modules = [
        {
            "parameter": name, "algorithm": item.patch.algorithm.name, "rank": item.patch.algorithm.rank, "norm": sqrt(item.energy),
            "relative": item.relative, "effective_rank": item.effective, "spike": item.spike,
            "values": [round(float(v), 8) for v in item.values[:64]],
        }
        for name, item in found.items()
    ]  # fmt: skip
    total = sum(item.energy for item in found.values())
    return {
        "name": network.name,
        "norm": sqrt(total),
        "blocks": {block: _block(items, total) for block, items in sorted(blocks.items())},
        "spikes": [name for name, item in found.items() if item.spike is not None and item.spike >= SPIKE],
        "dead": [name for name, item in found.items() if item.energy == 0],
        "modules": modules,
    }


def _block(items: Sequence[Spectrum], total: float) -> dict[str, Any]:
    energy = sum(item.energy for item in items)
    base = [item.base_energy for item in items if item.base_energy]
    return {
        "norm": sqrt(energy),
        "share": energy / total if total else 0.0,
        "relative": sqrt(energy / sum(base)) if base and sum(base) > 0 else None,
        "effective_rank": sum(item.effective for item in items) / len(items),
    }


def _pair(first: str, second: str, a: Mapping[str, Spectrum], b: Mapping[str, Spectrum], family: str) -> dict[str, Any]:
    dots: dict[str, list[float]] = {}
    overlaps = []
    for name in a.keys() & b.keys():
        left, right = a[name].factors, b[name].factors
        if left is None or right is None:
            continue
        sums = dots.setdefault(block_of(name, family) or REST, [0.0, 0.0, 0.0])
        for index, value in enumerate((inner(left, right), a[name].energy, b[name].energy)):
            sums[index] += value
        overlaps.append(overlap(left, right))
    whole = [sum(values[i] for values in dots.values()) for i in range(3)]
    return {
        "networks": [first, second],
        "shared": count_layers(a.keys() & b.keys()),
        "cosine": _cosine(whole),
        "overlap": sum(overlaps) / len(overlaps) if overlaps else 0.0,
        "blocks": {block: _cosine(values) for block, values in sorted(dots.items())},
    }


def _cosine(sums: Sequence[float]) -> float:
    return sums[0] / sqrt(sums[1] * sums[2]) if sums[1] > 0 and sums[2] > 0 else 0.0


def _text(report: Mapping[str, Any]) -> str:
    lines = []
    for network in report["networks"]:
        layers = counted(count_layers(module["parameter"] for module in network["modules"]), "layer")
        lines.append(f"{network['name']}: size {network['norm']:.4g}, {layers}")
        for block, facts in network["blocks"].items():
            relative = "" if facts["relative"] is None else f", {facts['relative']:.2%} of the base"
            lines.append(f"  {block:5} {facts['share']:6.1%} of its energy{relative}, effective rank {facts['effective_rank']:.1f}")
        if spikes := network["spikes"]:
            lines.append(f"  {counted(count_layers(spikes), 'spike')}: layers where one direction does nearly all, such as {spikes[0]}")
        lines += [f"  {counted(count_layers(network['dead']), 'dead layer')}"] if network["dead"] else []
    for pair in report["pairs"]:
        lines.append(
            f"{' and '.join(pair['networks'])}: {counted(pair['shared'], 'shared layer')}, "
            f"cosine {pair['cosine']:+.3f}, overlap {pair['overlap']:.1%}"
        )
        clashes = [block for block, cosine in pair["blocks"].items() if abs(cosine) >= CLASH]
        lines += [f"  they act alike or against each other in {', '.join(clashes)}"] if clashes else []
    if report["not_measured"]:
        missing = counted(count_layers(name for _, name, _ in report["not_measured"]), "layer")
        lines.append(f"not measured: {missing} whose change depends on the base weights; give `base_model`")
    return "\n".join(lines)


TOOL = Tool(
    "compare", "Compare", "compare networks: sizes by block, spectra, overlap", run, plan,
    (MODELS, Option("base_model", "the checkpoint, for sizes relative to its weights", Path, kind="checkpoint"), FAMILY),
)  # fmt: skip
