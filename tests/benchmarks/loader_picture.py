"""The results as a small image: what changes add beside the host's, and what a step costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .loader_timing import Result

COLOURS = {"host": "#8a8a8a", "functional": "#0072b2", "merged": "#e69f00"}  # told apart by colour-blind people too
LABELS = {"host": "the host's method", "functional": "functional", "merged": "merged"}
NAMES = {"lora": "LoRA", "locon": "LoCon", "loha": "LoHa", "lokr": "LoKr", "lokr_rank": "LoKr low rank", "oft": "Diag-OFT"}


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw the bars; what was not measured is left out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    values = {result.name: result.value for result in results}
    kinds = [kind for kind in NAMES if any(f"_{kind}_" in name for name in values)]
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    titles = {"strength_only": "Changing a strength adds (s)", "first_use": "The first use adds (s)"}
    for axis, (event, title) in zip(axes, titles.items(), strict=False):
        _bars(axis, kinds, {way: [values.get(f"{event}_{kind}_{way}_seconds", 0.0) for kind in kinds] for way in COLOURS})
        axis.set_title(title, fontsize=10)
    _bars(axes[2], kinds, {way: [values.get(f"steady_{kind}_{way}", 0.0) for kind in kinds] for way in ("functional", "merged")})
    axes[2].set_title("A step, of one without a network", fontsize=10)
    axes[2].axhline(1.0, color="#555555", linewidth=0.8)
    axes[2].set_ylim(0.8)
    axes[0].legend(fontsize=8, frameon=False, ncols=len(COLOURS), loc="lower left", bbox_to_anchor=(0, 1.1))  # above the bars
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bars(axis: Any, kinds: Sequence[str], series: dict[str, list[float]]) -> None:
    width = 0.8 / len(series)
    for number, (way, heights) in enumerate(series.items()):
        places = [place + (number - (len(series) - 1) / 2) * width for place in range(len(kinds))]
        bars = axis.bar(places, [max(height, 0.0) for height in heights], width, color=COLOURS[way], label=LABELS[way])
        axis.bar_label(bars, fmt="%.2f", fontsize=6, padding=1)
    axis.set_xticks(range(len(kinds)), [NAMES[kind] for kind in kinds], fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
