"""A DyLoRA -> one network for each rank: the first n ranks of every module, as ``dyn=n`` in a prompt uses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...algorithms import Algorithm
from ...errors import ToolError
from ...networks.hashes import sha256
from ...networks.reading.dtypes import precision_dtype
from ..declaration import NETWORK_PRECISION, SAVE_TO, Counts, FilePath, Option, Plan, Result, Tool, as_list
from ..files.metadata import cast, describe, make_recipe, rank_facts
from ..files.networks.network_output import UNKNOWN, NetworkFile, open_network, save_network, written_bytes
from ..files.output_name import check_network_name
from ..jobs.cost import cost
from ..jobs.progress import Progress
from ..validation import at_least


def run(
    model: FilePath, save_to: FilePath, *, unit: int | None = None, ranks: Counts = (), alpha: str = "scale",
    save_precision: str | None = None, progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Cut a DyLoRA into a network for every rank; the rank is added to `save_to`'s name, as in style-0004.safetensors.

    Raises:
        ToolError: an option is wrong, or the network does not have these ranks.
        NetworkFormatError: the file cannot be read.
    """
    progress, dtype = progress or Progress(), precision_dtype(save_precision, None)
    check_network_name(Path(save_to))
    opened = open_network(model)
    wanted = which_ranks(opened, unit, as_list(ranks))
    _refuse_outside_alpha(opened, alpha)
    progress.start(len(wanted), "splitting", "files")
    paths = []
    for rank in wanted:
        tensors, alphas = first_ranks(opened, rank, alpha == "keep")
        recipe = _recipe(opened, sha256(opened.file.path), rank, alpha)
        facts = rank_facts([rank], alphas)
        paths.append(save_network(target(save_to, rank), cast(tensors, dtype), opened.metadata, recipe, [opened.file.path], facts))
        progress.advance(text=paths[-1].name)
    report = {"outputs": [str(path) for path in paths], "ranks": wanted}
    return Result(report, "\n".join(map(str, paths)), tuple(paths))


def _recipe(opened: NetworkFile, digest: str, rank: int, alpha: str) -> dict[str, Any]:
    return make_recipe("split", networks=[describe(opened.file.path, digest)], rank=rank, alpha=alpha)


def _refuse_outside_alpha(opened: NetworkFile, alpha: str) -> None:
    """Raise ToolError where alpha is to stay and PEFT's config says the scale of all ranks: that of the new files would be the old one."""
    if alpha == "keep" and opened.source.configs:
        raise ToolError(
            f"the scale of {opened.file.path.name} stands in PEFT's config and not in alpha, which could be kept; use `alpha=scale`"
        )


def target(save_to: Path | str, rank: int) -> Path:
    """Return the name of the file of a rank."""
    return Path(save_to).with_name(f"{Path(save_to).stem}-{rank:04d}{Path(save_to).suffix}")


def modules_to_cut(opened: NetworkFile) -> dict[str, Algorithm]:
    """Return the modules whose ranks can be cut."""
    found = {}
    for module in opened.keys.modules:
        weight = opened.algorithms(module).get("weight")
        if weight is not None and weight.truncates:
            found[module] = weight
    return found


def which_ranks(opened: NetworkFile, unit: int | None, ranks: Sequence[int]) -> list[int]:
    """Return the ranks asked for, or every multiple of a unit up to the file's own. Raises ToolError for ones that it does not have."""
    cuts = modules_to_cut(opened)
    if not cuts:
        raise ToolError(f"{opened.file.path.name} has no module whose ranks can be cut: only LoRA without a Tucker core (DyLoRA) has such")
    most = max(weight.rank or 0 for weight in cuts.values())
    if not ranks and not unit:
        raise ToolError("give `unit=4` for every multiple of 4, or the ranks themselves as `ranks=4 8 16`")
    wanted = sorted(set(ranks)) if ranks else list(range(int(unit or 0), most + 1, int(unit or 1)))
    if not wanted or wanted[0] < 1 or wanted[-1] > most:
        raise ToolError(f"{opened.file.path.name} has ranks 1 to {most}, but {', '.join(map(str, wanted)) or unit} was asked for")
    return wanted


def first_ranks(opened: NetworkFile, rank: int, keep_alpha: bool) -> tuple[dict[str, Tensor], list[float]]:
    """Return the file's tensors with the first ranks only, and the alphas.

    Alpha is cut as the ranks are, so that the scale stays what it was in training; kept as it is, it makes small ranks stronger.
    """
    made, alphas = dict(opened.tensors), []
    for module, weight in modules_to_cut(opened).items():
        keys = opened.keys.modules[module]
        whole, cut = weight.to_state_dict(), weight.truncated(rank).to_state_dict()
        said = whole if keep_alpha else cut
        alphas.append(float(said.get("alpha", said["lora_down.weight"].shape[0])))
        cut["alpha"] = torch.tensor(alphas[-1])
        made.update({keys.get(suffix, f"{module}.{suffix}"): tensor.contiguous() for suffix, tensor in cut.items()})
    return made, alphas


def plan(
    model: Path | str,
    save_to: Path | str,
    unit: int | None = None,
    ranks: Sequence[int] = (),
    alpha: str = "scale",
    save_precision: str | None = None,
) -> Plan:
    """Tell which files would be written."""
    check_network_name(Path(save_to))
    dtype, opened = precision_dtype(save_precision, None), open_network(model)
    wanted = which_ranks(opened, unit, ranks)
    _refuse_outside_alpha(opened, alpha)
    paths = [str(target(save_to, rank)) for rank in wanted]
    size = opened.file.path.stat().st_size
    report = {"outputs": paths, "ranks": wanted, "alpha": alpha}
    sizes = [
        written_bytes(opened, first_ranks(opened, rank, alpha == "keep")[0], dtype, _recipe(opened, UNKNOWN, rank, alpha))
        for rank in wanted
    ]
    took = cost((), size, sum(sizes))
    return Plan(report, "would write " + ", ".join(paths), took.seconds, took.bytes + max(sizes), sum(sizes))


TOOL = Tool(
    "split", "Split a DyLoRA", "cut a DyLoRA into networks of fixed ranks", run, plan,
    (
        Option("model", "the network file", Path, required=True, kind="network", aliases=("--models",)),
        replace(SAVE_TO, makes="networks"),
        Option("unit", "write every multiple of this rank, for example 4", int, check=at_least(1, "unit")),
        Option("ranks", "write these ranks", int, (), nargs="+"),
        Option("alpha", "how strong smaller ranks are - scale: as dyn= in a prompt; keep: more, as with kohya's tool", default="scale",
               choices=("scale", "keep")),
        NETWORK_PRECISION,
    ),
)  # fmt: skip
