"""What is asked of a conversion: the network, its changes by layer, and the form that they are to have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...errors import ToolError
from ...models import FAMILIES, UNKNOWN, BaseModel, reference, split_part
from ...networks import Network, load
from ...networks.reading.dtypes import precision_dtype
from ...records import dataclass
from ..declaration import ALPHA, FAMILY, NETWORK_PRECISION, RULES, SAVE_TO, STYLES, Option
from ..extract.difference import Reader
from ..files.checkpoints.checkpoint import open_checkpoint
from ..files.networks.alpha import check_alpha
from ..files.networks.naming import known_style, named
from ..files.networks.network_file import Patch, changes_nothing, patches, stored_dtype, style_of, with_own
from ..linalg.ranks import Rule
from ..validation import at_least

OPTIONS = (
    Option("model", "the network file", Path, required=True, kind="network"),
    SAVE_TO,
    Option("style", "key names in the file (default: as they are)", choices=STYLES),
    Option("algorithm", "what the file is made of - keep: as it is; lora: a plain LoRA, which every program reads", default="keep",
           choices=("keep", "lora")),
    Option("base_model", "the checkpoint, for networks whose change depends on its weights or of a model of unusual size", Path,
           kind="checkpoint"),
    Option("dim", "largest rank of what cannot become a LoRA exactly", int, check=at_least(1, "dim")),
    Option("rule", "how that rank is chosen, up to `dim`", default="fixed", choices=RULES),
    Option("value", "the rule's value", float, default=0.0),
    ALPHA,
    NETWORK_PRECISION,
    FAMILY,
)  # fmt: skip


@dataclass(frozen=True)
class ConvertOptions:
    """What is asked of a conversion."""

    network: Network
    base: BaseModel
    weights: Reader | None
    style: str
    to_lora: bool
    rule: Rule | None
    dtype: torch.dtype
    alpha: float | None
    work: dict[tuple[str, str], list[Patch]]
    renamed: bool  # whether a style was asked for

    def names_kept_or_guessed(self) -> list[str]:
        """Say where layers keep their names, or get those of one of several base models, where a style was asked for."""
        if not self.renamed:
            return []
        if self.base.family == UNKNOWN.id:
            name = next(iter(self.work))[0]
            return [
                f"the layers keep their names, such as {name}: no base model known here has them, so only the endings are those of the "
                f"{self.style} style; a model of unusual size is known by its checkpoint (`base_model`)"
            ]
        own, candidates = self._names(self.base.family), () if self.network.chosen else self.network.candidates
        others = [family for family in candidates if self._names(family) != own]
        labels = " or ".join(FAMILIES[family].label for family in others)
        return [f"the layers are named as those of {self.base.label}; if the file is for {labels}, say so (`family`)"] if others else []

    def _names(self, family: str) -> list[str]:
        """Return what the file's layers are called in the style where it is for a family."""
        base = reference(family)
        targets = [split_part(target)[0] for module in self.network.modules.values() for target in base.targets(module)]
        return sorted({item.name for target in targets for item in named(base, self.style, target)})


def understand(options: Mapping[str, Any]) -> ConvertOptions:
    """Return what options ask for, the network loaded. Raises ToolError, NetworkFormatError."""
    given = {**{option.name: option.default for option in OPTIONS}, **options}
    if given["algorithm"] not in ("keep", "lora"):
        raise ToolError(f'"{given["algorithm"]}" is nothing that a network can be converted to; there are keep and lora')
    checkpoint = open_checkpoint(given["base_model"]) if given["base_model"] else None
    network = load(given["model"], checkpoint.base if checkpoint else None, family=given["family"])
    base = checkpoint.base if checkpoint else network.base
    to_lora = given["algorithm"] == "lora"
    changes, work = patches(network, base), dict[tuple[str, str], list[Patch]]()
    for patch in [one for one in (changes if to_lora else with_own(changes)) if not changes_nothing(one, checkpoint)]:
        work.setdefault((patch.module, patch.leaf), []).append(patch)
    rule = Rule(given["rule"], given["value"], given["dim"]) if given["dim"] or given["rule"] != "fixed" else None
    style = known_style(given["style"] or style_of(network.modules.values()))
    dtype = precision_dtype(given["save_precision"], stored_dtype(network))
    alpha = check_alpha(given["alpha"], style)
    weights, renamed = Reader(checkpoint) if checkpoint else None, given["style"] is not None
    return ConvertOptions(network, base, weights, style, to_lora, rule, dtype, alpha, work, renamed)
