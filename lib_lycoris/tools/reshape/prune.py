"""A network without the modules that change nothing: an all-zero factor makes ΔW zero for every base weight."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ...errors import ToolError
from ...networks.hashes import sha256
from ...networks.reading.dtypes import precision_dtype
from ...wording import counted
from ..declaration import NETWORK_PRECISION, SAVE_TO, FilePath, Option, Plan, Result, Tool
from ..files.metadata import cast, describe, make_recipe
from ..files.networks.network_output import UNKNOWN, NetworkFile, open_network, save_network, written_bytes
from ..jobs.cost import cost
from ..jobs.progress import Progress
from ..units import megabytes


def dead_modules(opened: NetworkFile) -> list[str]:
    """Return the file's modules of which every part is zero; one that cannot be understood is not among them."""
    found = []
    for module in opened.keys.modules:
        algorithms = opened.algorithms(module)
        if algorithms and all(algorithm.is_zero for algorithm in algorithms.values()):
            found.append(module)
    return found


def run(model: FilePath, save_to: FilePath, *, save_precision: str | None = None, progress: Progress | None = None) -> Result:
    """Leave out the modules of a network that change nothing; everything else stays as it is.

    Raises:
        ToolError: an option is wrong, there is nothing to prune or nothing would be left, or the disk is full.
        NetworkFormatError: the file cannot be read.
    """
    progress, dtype = progress or Progress(), precision_dtype(save_precision, None)
    opened = open_network(model)
    progress.start(2, "pruning")
    dead = dead_modules(opened)
    _refuse(opened, dead, save_precision)
    kept = _kept(opened, dead)
    progress.advance()
    recipe = make_recipe("prune", networks=[describe(opened.file.path, sha256(opened.file.path))])
    path = save_network(save_to, cast(kept, dtype), opened.metadata, recipe, [opened.file.path])
    progress.advance()
    before, after = opened.file.path.stat().st_size, path.stat().st_size
    report = {"output": str(path), "dead": dead, "kept": len(opened.keys.modules) - len(dead), "saved_bytes": before - after}
    said = f"{len(dead)} of {counted(len(opened.keys.modules), 'layer')} left out, for they change nothing; "
    said += f"{megabytes(before)} -> {megabytes(after)}"
    return Result(report, f"{path}: {said}", (path,))


def _refuse(opened: NetworkFile, dead: list[str], save_precision: str | None) -> None:
    """Raise ToolError where the new file would be the old one, or hold nothing."""
    name, count = opened.file.path.name, len(opened.keys.modules)
    if not dead and save_precision is None:
        raise ToolError(f"nothing to prune: no layer of {name} is zero ({counted(count, 'layer')} looked at); nothing was written")
    if len(dead) == count and not opened.keys.embeddings:
        raise ToolError(f"every layer of {name} changes nothing; nothing was written, delete the file instead")


def plan(model: Path | str, save_to: Path | str, save_precision: str | None = None) -> Plan:
    """Tell which modules would be left out."""
    dtype, opened = precision_dtype(save_precision, None), open_network(model)
    dead, size = dead_modules(opened), opened.file.path.stat().st_size
    _refuse(opened, dead, save_precision)
    report = {"output": str(save_to), "dead": dead, "kept": len(opened.keys.modules) - len(dead)}
    text = f"would leave out {len(dead)} of {counted(len(opened.keys.modules), 'layer')}: {', '.join(dead[:12]) or 'none'}"
    recipe = make_recipe("prune", networks=[describe(opened.file.path, UNKNOWN)])
    kept = written_bytes(opened, _kept(opened, dead), dtype, recipe)
    took = cost((), size, kept)
    return Plan(report, text, took.seconds, took.bytes + kept, kept)


def _kept(opened: NetworkFile, dead: list[str]) -> dict[str, Tensor]:
    dropped = {key for module in dead for key in opened.keys.modules[module].values()}
    return {key: tensor for key, tensor in opened.tensors.items() if key not in dropped}


TOOL = Tool(
    "prune", "Prune dead layers", "leave out the layers of a network that change nothing", run, plan,
    (Option("model", "the network file", Path, required=True, kind="network", aliases=("--models",)), SAVE_TO, NETWORK_PRECISION),
)  # fmt: skip
