"""Merges several networks into one: ΔW = Σ s · ΔW_i, exactly, or the nearest of a rank, energy or file size.

LoRA factors are put side by side, LoHa and LoKr expanded; nothing of full size is formed for them. What depends on the base weight
(DoRA, OFT, BOFT, IA3, GLoRA) is computed on that of `base_model`.
The order of the networks never matters: they are summed in that of their hashes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..declaration import (
    ALPHA,
    FAMILY,
    FASTEST,
    IGNORED_KOHYA,
    MODELS,
    NETWORK_PRECISION,
    PER_NETWORK,
    RULES,
    SAVE_TO,
    STYLES,
    FilePath,
    Files,
    Numbers,
    Option,
    Plan,
    Result,
    Texts,
    Tool,
    options_of,
)
from ..jobs.progress import Progress
from ..units import check_size
from ..validation import at_least

METHODS = ("sum", "ties", "dare", "dare_ties")
DENSITY = 0.5

OPTIONS = (
    MODELS,
    *PER_NETWORK,
    SAVE_TO,
    Option("base_model", "the checkpoint, for networks whose change depends on its weights or of a model of unusual size", Path,
           kind="checkpoint"),
    Option("dim", "rank of the result, or the largest that the rule may choose (default: exact)", int, aliases=("--new_rank",),
           check=at_least(1, "dim")),
    Option("conv_dim", "rank of convolutions (default: `dim`)", int, aliases=("--new_conv_rank",), check=at_least(1, "conv_dim")),
    Option("rule", "how ranks are chosen, up to `dim`", default="fixed", choices=RULES),
    Option("value", "the rule's value", float, default=0.0),
    Option("size", "size of the file in MB; ranks are shared out over the layers", float, check=check_size),
    Option(
        "method", "how changes are combined - sum; ties: larger values, where the networks agree on the sign; dare: random values, scaled",
        default="sum", choices=METHODS,
    ),
    Option("density", "share of the values that TIES and DARE keep", float, default=DENSITY),
    Option("seed", "seed for dare and for random block weights", int, default=0),
    Option("style", "key names in the file (default: the networks')", choices=STYLES),
    ALPHA,
    replace(NETWORK_PRECISION, help="dtype of the file (default: the networks')"),
    FAMILY,
    FASTEST,
    Option("concat", "keep all ranks, side by side: exactly the sum; what would cut them is refused", bool, default=False),
    Option("shuffle", "", bool, ignored="`shuffle` has no meaning here: the order of ranks changes nothing"),
    *IGNORED_KOHYA,
)  # fmt: skip


def run(
    models: Files, save_to: FilePath, *, ratios: Numbers | None = None, te: Numbers | None = None, te2: Numbers | None = None,
    unet: Numbers | None = None, lbw: Texts | None = None, lbwe: Texts | None = None, base_model: FilePath | None = None,
    dim: int | None = None, conv_dim: int | None = None, rule: str = "fixed", value: float = 0.0, size: float | None = None,
    method: str = "sum", density: float = 0.5, seed: int = 0, style: str | None = None, alpha: float | None = None,
    save_precision: str | None = None, concat: bool = False, family: str | None = None,
    device: str = "cpu", progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Merge networks into one, ΔW = Σ s · ΔW_i: exactly, or the nearest of a rank (`dim`), an energy (`rule`) or a file size.

    Options of each network take one value for each of `models`, in their order. The report holds rank and relative error of every layer
    (`modules`), of the whole (`error`), and the keys that were left out (`skipped`).

    Raises:
        ToolError: an option is wrong, nothing is left, or a change depends on base weights and `base_model` is not given.
        ModelMismatchError: the networks are for different base models.
        NetworkFormatError: a file cannot be read.
    """
    given = options_of(locals())
    from .into_network import merged  # with torch, which the declaration does without

    return merged(progress or Progress(), given)


def plan(**options: Any) -> Plan:
    """Say what would be merged, and how large the file would be."""
    from .into_network import planned

    return planned(options)


TOOL = Tool(
    "networks_merge", "Merge networks", "merge several networks into one", run, plan, OPTIONS, verb="merge"
)  # fmt: skip
