"""What an extraction kept: the report for machines and for people, and the metadata of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from ...models import FAMILIES, block_of, count_layers
from ...records import dataclass
from ...wording import counted
from ..files.checkpoints.checkpoint import Checkpoint
from ..files.metadata import KEY, base_entry, dumps, make_recipe, rank_facts
from ..linalg.low_rank import relative
from ..units import megabytes
from .prediction import KEY as PREDICTION
from .prediction import changed, prediction

RECORDED = (
    "algorithm",
    "dim",
    "conv_dim",
    "rule",
    "value",
    "conv_value",
    "size",
    "factor",
    "lokr_rank",
    "block",
    "style",
    "alpha",
    "save_precision",
    "embeddings",
    "text_encoder",
)
WORST = 5
REST = "-"  # what no block holds


def warnings(base: Checkpoint, tuned: Checkpoint) -> list[str]:
    """Return what is to be known of a difference of these two beside its numbers."""
    prediction_changed = changed(base, tuned)
    rounded = [
        f"{one.path.name} is quantised ({', '.join(one.packing)}): what its weights lost by that is part of the difference; "
        "use its fp16 or bf16 version where there is one"
        for one in (base, tuned)
        if one.packing
    ]
    return [prediction_changed, *rounded] if prediction_changed else rounded


@dataclass(frozen=True)
class Row:
    """One module of the report; energies are squared Frobenius norms."""

    parameter: str
    algorithm: str = ""  # empty: not in the file
    rank: int | None = None
    energy: float = 0.0
    left: float = 0.0
    base_energy: float = 0.0
    identical: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the row in the terms that people compare: shares and relative sizes."""
        captured = 1 - self.left / self.energy if self.energy > 0 else 1.0
        return {
            "parameter": self.parameter, "algorithm": self.algorithm, "rank": self.rank,
            "captured": round(captured, 6), "error": relative(self.left, self.energy), "change": relative(self.energy, self.base_energy),
        }  # fmt: skip


NAMES = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "ia3": "(IA)³", "oft": "OFT", "full": "full"}


def facts(rows: Sequence[Row], left_out: Sequence[tuple[str, str]], size: int, seconds: float, family: str) -> dict[str, Any]:
    """Return the report."""
    total, left = sum(row.energy for row in rows), sum(row.left for row in rows)
    kinds = Counter(row.algorithm for row in rows if row.algorithm)
    return {
        "modules": [row.as_json() for row in rows if not row.identical],
        "identical": [row.parameter for row in rows if row.identical],
        "left_out": [list(item) for item in left_out],
        "algorithms": dict(kinds),
        "captured": 1 - left / total if total > 0 else 1.0,
        "error": relative(left, total),
        "family": family,
        "blocks": _blocks(rows, family),
        "bytes": size,
        "seconds": round(seconds, 2),
    }


def _blocks(rows: Sequence[Row], family: str) -> dict[str, dict[str, float]]:
    """Return how large the change of each block is (Frobenius norm), and what of it the network does not have."""
    sums: dict[str, list[float]] = {}
    for row in rows:
        block = sums.setdefault(block_of(row.parameter, family) or REST, [0.0, 0.0])
        block[0], block[1] = block[0] + row.energy, block[1] + row.left
    return {block: {"change": sqrt(energy), "left": sqrt(max(left, 0.0))} for block, (energy, left) in sums.items() if energy > 0}


def summary(name: str, report: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the report as sentences."""
    kinds = ", ".join(f"{counted(count, NAMES.get(kind, kind) + ' layer')}" for kind, count in report["algorithms"].items())
    lines = [
        f"{name}: {kinds}; {megabytes(report['bytes'])} in {report['seconds']:.1f} s",
        f"kept {report['captured']:.2%} of the difference's energy (relative error {report['error']:.2%})",
        f"{counted(count_layers(report['identical']), 'layer')} the same in both models; {len(report['left_out'])} left out",
    ]
    worst = sorted((row for row in rows if row.left > 0), key=lambda row: -row.left)[:WORST]
    lines += ["most is lost in"] if worst else []
    lines += [f"  {row.parameter}: {row.algorithm or 'left out'}, error {relative(row.left, row.energy):.1%}" for row in worst]
    reasons = Counter(reason for _, reason in report["left_out"])
    return "\n".join([*lines, *(f"  {count} left out: {reason}" for reason, count in reasons.most_common())])


def metadata(base: Checkpoint, tuned: Checkpoint, options: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, str]:
    """Return the metadata of the extracted network, without hashes."""
    asked = {key: options[key] for key in RECORDED if options.get(key) is not None}
    recipe = make_recipe("extract", model_org=base_entry(base, False), model_tuned=base_entry(tuned, False), **asked)
    written = FAMILIES[tuned.base.family].written
    architecture = written.get("modelspec.architecture")
    kinds = {row.algorithm for row in rows if row.algorithm}
    ranks = [row.rank for row in rows if row.rank]
    plain, alpha = kinds <= {"lora", "bias", "full"}, options.get("alpha")
    predicts = prediction(tuned)
    return {
        "format": "pt",
        "ss_base_model_version": written.get("ss_base_model_version", tuned.base.family),
        "ss_v2": written.get("ss_v2", "False"),
        "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
        **rank_facts(ranks, [float(rank) if alpha is None else alpha for rank in ranks]),
        "modelspec.sai_model_spec": "1.0.0",
        **({"modelspec.architecture": f"{architecture}/lora"} if architecture else {}),
        **({PREDICTION: predicts} if predicts else {}),
        "modelspec.title": Path(str(options.get("save_to", ""))).stem,
        KEY: dumps(recipe),
    }
