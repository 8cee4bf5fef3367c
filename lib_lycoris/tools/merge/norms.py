"""What a merge changes, by network and parameter, with its strengths: the numbers behind an image of the blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...networks import load
from ...records import dataclass
from ..examine.block_norms import delta_energy
from ..extract.difference import Reader
from ..files.checkpoints.checkpoint import open_checkpoint
from ..files.networks.network_file import Patch, patches
from .strengths import asked

STRENGTHS = ("ratios", "te", "te2", "unet", "lbw", "lbwe")


@dataclass(frozen=True)
class Share:
    """One network of a merge: ‖s · ΔW‖² of every parameter that it changes."""

    name: str
    family: str
    energies: tuple[tuple[str, float], ...]
    left_out: int  # parameters whose change depends on a base weight that is not at hand


def shares(network_files: Sequence[Path], checkpoint: Path | None = None, seed: int = 0, **strengths: Any) -> list[Share]:
    """Return what each network of a merge changes, strengths and block weights included; strengths as the merge takes them."""
    found = []
    base = open_checkpoint(checkpoint).base if checkpoint is not None else None
    reader = Reader(open_checkpoint(checkpoint)) if checkpoint is not None else None
    try:
        for item in asked(network_files, **strengths):
            network = load(item.path, base)
            of = item.strengths(network.family, seed)
            known, left_out = [], 0
            for patch in patches(network, base or network.base):
                amount = of(patch.name)
                if _needs_weight(patch) and (reader is None or not reader.has(patch.name)):
                    left_out += 1
                elif isinstance(amount, (int, float)) and amount:
                    weight = reader.read(patch.name, patch.shape) if reader is not None and _needs_weight(patch) else None
                    known.append((patch.name, float(amount) ** 2 * delta_energy(patch, weight)))
            found.append(Share(network.name, network.family, tuple(known), left_out))
    finally:
        if reader is not None:
            reader.close()
    return found


def shares_of(options: Mapping[str, Any]) -> list[Share]:
    """As :func:`shares`, for the options of a merge of either kind."""
    strengths = {name: options[name] for name in STRENGTHS if options.get(name)}
    return shares(options["models"], options.get("sd_model") or options.get("base_model"), options.get("seed") or 0, **strengths)


def _needs_weight(patch: Patch) -> bool:
    return patch.algorithm.reads_weight
