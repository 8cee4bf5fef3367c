"""Which network is this, which are alike, what is this checkpoint made of, which need which base model: asked of a whole library.

Of each file the header and a few layers are read, of pairs that look the same the rest; nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ToolError
from ...models import BaseModel
from ...networks.hashes import sha256
from ...wording import counted
from ..declaration import FilePath, Files, Option, Plan, Result, Tool, as_list
from ..extract.difference import Reader
from ..files.checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..jobs.progress import Progress
from ..units import megabytes
from .made_of import Explained, check_pair, explained, layers_to_look_at, numbers_looked_at
from .sampled import Layers, SampledNetwork, SampledReader, by_hash, content_hash, files_of, sampled_networks
from .sketch import compared, near_pairs

NEAR = 0.98
SAME = 0.999999  # a cosine from which a change is the same but for its rounding
SHOWN = 40  # lines of a list in the text
SECONDS = 0.04  # a file
SHARE = 0.04  # of a file's bytes that stay in memory: LOOKED_AT of the layers that a network has
START_BYTES = 20_000_000
FIT_SECONDS, FIT_BYTES = 1.3e-8, 16  # for a number of the checkpoint's layers that are looked at, the seconds for each network


def run(
    library: Files, *, model: FilePath | None = None, checkpoint: FilePath | None = None, base_model: FilePath | None = None,
    near: float = NEAR, progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Look through a library: which files are equal or nearly so and which base model each needs; with a file, which network it is.

    With a checkpoint and its base model: which networks, at which strengths, its difference is the sum of. With a base model alone: also
    which networks it fits whose files do not tell what they are for.

    Raises:
        ToolError: there is no network file, or an option is wrong.
        NetworkFormatError: the file that is asked about cannot be read.
    """
    progress = progress or Progress()
    if checkpoint is not None:
        return _made_of(Path(checkpoint), base_model, files_of(_paths(library)), progress)
    if not 0.5 <= near <= 1:
        raise ToolError(f"near is a cosine from 0.5 to 1, but got {near:g}")
    paths = files_of(_paths(library))
    sampler = SampledReader(None if base_model is None else _at_hand(open_checkpoint(base_model)))
    asked = None if model is None else sampler.read(Path(model))
    files, broken, read = _read(sampler, paths, by_hash, progress)
    if asked is not None:
        others = [file for file in files if not file.path.samefile(asked.path)]
        report: dict[str, Any] = {"model": str(model), "is": _which(asked, others, near)}
    else:
        report = {**_alike(files, near), "bases": _bases(files)}
    report |= {"files": len(paths), "unreadable": broken, "bytes_read": read, "bytes_of_all": sum(path.stat().st_size for path in paths)}
    return Result(report, _text(report))


def plan(**options: Any) -> Plan:
    """Tell how many files would be looked at."""
    paths = files_of(_paths(options["library"]))
    report = {"matched": [str(path) for path in paths], "unmatched": [], "files": len(paths)}
    seconds, memory = SECONDS * len(paths), START_BYTES + SHARE * sum(path.stat().st_size for path in paths)
    if options.get("checkpoint") is not None:
        _, base = _checkpoints(Path(options["checkpoint"]), options.get("base_model"))
        numbers = numbers_looked_at(base.checkpoint)
        seconds, memory = 2 * seconds + FIT_SECONDS * numbers * len(paths), memory + FIT_BYTES * numbers
    return Plan(report, f"looks at {counted(len(paths), 'file')}; nothing is written", round(seconds, 2), int(memory), 0)


def _paths(library: Files) -> list[Path]:
    return [Path(path) for path in as_list(library)]


def _read(
    sampler: SampledReader, paths: Sequence[Path], layers: Layers, progress: Progress
) -> tuple[list[SampledNetwork], list[list[str]], int]:
    progress.start(len(paths), "looking at files", "files")
    files: list[SampledNetwork] = []
    broken: list[list[str]] = []
    for found in sampled_networks(paths, sampler, layers, lambda path: progress.advance(1, path.name)):
        if isinstance(found, SampledNetwork):
            files.append(found)
        else:
            broken.append([str(found[0]), found[1]])
    return files, broken, sum(file.read for file in files)


def _which(asked: SampledNetwork, files: Sequence[SampledNetwork], near: float) -> list[dict[str, Any]]:
    """Return the files that a network is, or is nearly, the nearest first."""
    found = []
    for file in files:
        cosine, size, layers = compared(asked, file)
        same = asked.content == file.content and _same_content(asked, file)
        if same or abs(cosine) >= near:
            found.append({"file": str(file.path), **_relation(asked, file, same, cosine, size, layers)})
    return sorted(found, key=lambda one: (not one["kind"].startswith("same"), -abs(one["cosine"])))


def _alike(files: Sequence[SampledNetwork], near: float) -> dict[str, Any]:
    """Return the groups of equal files, and the pairs of others that do nearly the same."""
    by_content: dict[str, list[SampledNetwork]] = {}
    for file in files:
        by_content.setdefault(file.content, []).append(file)
    groups: list[list[SampledNetwork]] = []
    for listed in by_content.values():
        whole: dict[str, list[SampledNetwork]] = {}
        for file in listed if len(listed) > 1 else []:
            whole.setdefault(content_hash(file.path), []).append(file)
        groups += [group for group in whole.values() if len(group) > 1]
    twins = {file.path for group in groups for file in group[1:]}
    rest = [file for file in files if file.path not in twins]
    pairs = []
    for a, b in near_pairs(rest, near):
        cosine, size, layers = compared(rest[a], rest[b])
        if abs(cosine) >= near:
            relation = _relation(rest[a], rest[b], False, cosine, size, layers)
            pairs.append({"files": [str(rest[a].path), str(rest[b].path)], **relation})
    return {
        "equal": [{"files": [str(file.path) for file in group], "kind": _kind(group)} for group in groups],
        "alike": sorted(pairs, key=lambda pair: -abs(pair["cosine"])),
    }


def _kind(group: Sequence[SampledNetwork]) -> str:
    same = len({file.path.stat().st_size for file in group}) == 1 and len({sha256(file.path) for file in group}) == 1
    return "same file" if same else "same tensors"


def _same_content(one: SampledNetwork, other: SampledNetwork) -> bool:
    return content_hash(one.path) == content_hash(other.path)


def _relation(one: SampledNetwork, other: SampledNetwork, same: bool, cosine: float, size: float, layers: int) -> dict[str, Any]:
    if same:
        kind = _kind([one, other])
    elif cosine >= SAME and abs(size - 1) < 1e-3 and one.layout.modules.keys() == other.layout.modules.keys():
        kind = "same change"
    else:
        kind = "alike"
    stronger = None if same or abs(abs(size) - 1) <= 1e-3 else str((other if abs(size) > 1 else one).path)
    return {"kind": kind, "cosine": round(cosine, 6), "strength": round(size, 4), "stronger": stronger, "layers": layers}


def _bases(files: Sequence[SampledNetwork]) -> list[dict[str, Any]]:
    """Return the base models with the files that are for each; `exact`: those whose change is of that very model's weights."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(files, key=lambda file: file.path):
        row = found.setdefault(file.label, {"base": file.label, "files": [], "named": {}, "exact": []})
        row["files"].append(str(file.path))
        name = file.said.get("ss_sd_model_name")
        if name and name != "None":
            row["named"].setdefault(name.replace("\\", "/").rpartition("/")[2], []).append(str(file.path))
        if any(change.algorithm.reads_weight for change in file.changes.values()):
            row["exact"].append(str(file.path))
    return sorted(found.values(), key=lambda row: -len(row["files"]))


def _at_hand(checkpoint: Checkpoint) -> tuple[BaseModel, str]:
    return checkpoint.base, checkpoint.path.name


def _checkpoints(path: Path, base_model: FilePath | None) -> tuple[Reader, Reader]:
    if base_model is None:
        raise ToolError("what a checkpoint is made of is read from its difference; give the model that it was made from as `base_model`")
    tuned, base = open_checkpoint(path), open_checkpoint(base_model)
    check_pair(tuned, base)
    return Reader(tuned), Reader(base)


def _made_of(path: Path, base_model: FilePath | None, paths: Sequence[Path], progress: Progress) -> Result:
    tuned, base = _checkpoints(path, base_model)
    sampler = SampledReader(_at_hand(base.checkpoint))
    try:
        heads, broken, _ = _read(sampler, paths, lambda _: (), progress)
        fitting = [head for head in heads if head.layout.base is base.checkpoint.base]
        places = layers_to_look_at(tuned.checkpoint, base.checkpoint, [head.layout.modules for head in fitting])
        wanted = [layer for listed in places.values() for layer in listed]
        if not wanted:
            raise ToolError(f"none of the {counted(len(heads), 'network')} changes a layer of {base.checkpoint.path.name}")
        files, more, read = _read(sampler, [head.path for head in fitting], lambda _: wanted, progress)
        progress.start(len(places), "fitting", "parts")
        found: dict[str, Explained] = {}
        for component, layers in places.items():
            found[component] = explained(tuned, base, files, layers)
            progress.advance(1, component)
    finally:
        tuned.close()
        base.close()
    if not any(one.energy for one in found.values()):
        raise ToolError(f"{path.name} is {base.checkpoint.path.name} itself in the {len(wanted)} layers that were looked at")
    report = {
        "checkpoint": str(path), "base_model": str(base_model), "made_of": _strengths(files, found),
        "explained": {key: 1 - one.left / one.energy if one.energy else 1.0 for key, one in found.items()},
        "layers": wanted, "files": len(paths), "unreadable": [*broken, *more], "bytes_read": read,
        "other_families": [str(head.path) for head in heads if head.layout.base is not base.checkpoint.base],
    }  # fmt: skip
    return Result(report, _made_text(path.name, report))


def _strengths(files: Sequence[SampledNetwork], found: Mapping[str, Explained]) -> list[dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for component, one in found.items():
        for part in one.parts:
            row = rows.setdefault(part.network, {"file": str(files[part.network].path), "strengths": {}, "errors": {}})
            row["strengths"][component], row["errors"][component] = round(part.strength, 4), round(part.error, 5)
    return sorted(rows.values(), key=lambda row: -max(map(abs, row["strengths"].values())))


def _made_text(name: str, report: Mapping[str, Any]) -> str:
    lines = [f"{name}, by {len(report['layers'])} of its layers:"]
    for row in report["made_of"]:
        said = ", ".join(f"{key} {round(value, 3) or 0.0:+.3f} ± {row['errors'][key]:.3f}" for key, value in row["strengths"].items())
        lines.append(f"  {row['file']}: {said}")
    if not report["made_of"]:
        lines.append("  none of the networks is in it")
    lines += [f"  {share:.1%} of the difference in {key} is explained" for key, share in report["explained"].items()]
    return "\n".join([*lines, *_broken(report)])


def _text(report: Mapping[str, Any]) -> str:
    lines = [f"{counted(report['files'], 'file')}, {megabytes(report['bytes_read'])} of {megabytes(report['bytes_of_all'])} read"]
    if "is" in report:
        lines += [f"{report['model']}: no other network is the same or alike"] if not report["is"] else []
        lines += [f"  {one['file']}: {_said(one, report['model'], one['file'])}" for one in report["is"]]
        return "\n".join([*lines, *_broken(report)])
    for group in report["equal"]:
        lines.append(f"{group['kind']}: {', '.join(group['files'])}")
    lines += [f"{' and '.join(pair['files'])}: {_said(pair, *pair['files'])}" for pair in report["alike"][:SHOWN]]
    lines += [] if report["equal"] or report["alike"] else ["no two of them are alike"]
    for row in report["bases"]:
        exact = f", {len(row['exact'])} of them change with the very weights that they were trained on" if row["exact"] else ""
        lines.append(f"{row['base']}: {counted(len(row['files']), 'network')}{exact}")
        lines += [f"  trained on {name}: {len(files)}" for name, files in sorted(row["named"].items())[:SHOWN]]
    return "\n".join([*lines, *_broken(report)])


def _said(one: Mapping[str, Any], first: str, second: str) -> str:
    looked = f" in {counted(one['layers'], 'layer')}" if one["kind"] not in ("same file", "same tensors") else ""
    return f"{one['kind']} (cosine {one['cosine']:.4f}{looked}{_compared_strengths(one, first, second)})"


def _compared_strengths(one: Mapping[str, Any], first: str, second: str) -> str:
    """Say which of two networks is the stronger, and whether they act against each other."""
    direction = "opposite" if one["cosine"] < 0 else "same"
    if one["stronger"] is None:
        return ", in opposite directions" if direction == "opposite" else ""
    share, weaker = abs(one["strength"]), second
    if one["stronger"] == second:
        share, weaker = 1 / share, first
    return f"; {Path(weaker).name} has the {direction} direction at {share:.3g} of the strength of {Path(one['stronger']).name}"


def _broken(report: Mapping[str, Any]) -> list[str]:
    return [f"cannot be read: {reason}" for _, reason in report["unreadable"][:SHOWN]]


TOOL = Tool(
    "find", "Find", "find equal and similar networks, which network a file is, and what a checkpoint is made of", run, plan,
    (
        Option("library", "network files, or folders of them with their subfolders", Path, nargs="+", required=True, kind="networks",
               walks=True),
        Option("model", "tell which of the library's networks this file is", Path, kind="network"),
        Option("checkpoint", "tell which of the library's networks this checkpoint is made of", Path, kind="checkpoint"),
        Option("base_model", "what the checkpoint was made from; also tells which networks fit it whose files do not say their base model",
               Path, kind="checkpoint"),
        Option("near", "cosine of two changes from which they are alike", float, NEAR),
    ),
)  # fmt: skip
