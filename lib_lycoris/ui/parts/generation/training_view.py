"""What a page shows of a training: how far it is, its curves, its images, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ....tools.training.runs import RunFacts, tail
from ....wording import remaining
from ...style import bar, idle, notes, report, small_picture
from ..plots import BLUE, DASHES, GOLD, GREEN, HEIGHT, INK, RED, WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET, LONGEST_SIDE = Path("samples") / "sheet.png", 1200  # pixels
POINTS = 600  # of a curve: more are not seen
ENDED = {
    "done": "{name} is trained.",
    "stopped": "Stopped after step {step} of {steps}. Resume goes on from there.",
    "ended": "The process of {name} ended after step {step} of {steps}. Resume goes on from its last state.",
    "failed": "{name} failed after step {step}.",
}
Curve = Sequence[tuple[int, float]]


def state_html(facts: RunFacts) -> str:
    """Return how far a run is."""
    if facts.status in ENDED and not facts.running:
        words = ENDED[facts.status].format(name=facts.name, step=facts.step, steps=facts.steps)
        return idle(words, failed=facts.status == "failed")
    if facts.status == "training":
        left = (facts.steps - facts.step) * facts.seconds
        loss = facts.losses[-1][1] if facts.losses else math.nan
        share = facts.step / max(facts.steps, 1)
        how = f"{100 * share:.0f} % - step {facts.step} of {facts.steps} - loss {loss:.4f} - {facts.seconds:.2f} s a step"
        return bar(share, f"{facts.name}: {how} - {remaining(left)}", "training")
    return bar(0, f"{facts.name}: {facts.text or 'starting'}", "training")


def said_html(facts: RunFacts) -> str:
    """Return what there is to say of a run: its error, its hints, its files."""
    if facts.status in ("failed", "ended"):
        said = notes(errors=[facts.text or "the process ended without a word"])
        return said + report(tail(facts.folder)) if facts.status == "ended" else said
    return notes(applied=[", ".join(facts.files)] if facts.files else [], problems=facts.hints)


def images_html(facts: RunFacts) -> str:
    """Return the sheet of the images that were made while training."""
    path = facts.folder / SHEET
    if not path.is_file():
        return ""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            return small_picture(image)
    except (OSError, UnidentifiedImageError):
        return ""  # it is being written


def curves(facts: RunFacts) -> Figure:
    """Draw loss, gradient norm and learning rates over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.8 * HEIGHT), dpi=100, facecolor=(0, 0, 0, 0))
    series = (
        ("loss", {"training": facts.losses, "validation": facts.validation}),
        ("gradient norm", {"norm": facts.norms}),
        ("learning rate", facts.rates),
    )
    for place, (title, lines) in enumerate(series):
        axes = figure.add_subplot(3, 1, place + 1, facecolor=(0, 0, 0, 0))
        axes.set_ylabel(title, color=INK, fontsize=8)
        axes.tick_params(colors=INK, labelsize=7)
        axes.grid(True, color=INK, alpha=0.25, linewidth=0.6)
        for number, (name, points) in enumerate(lines.items()):
            shown = _thinned(points)
            colour = (BLUE, RED, GREEN, GOLD)[number % 4]
            axes.plot([x for x, _ in shown], [y for _, y in shown], color=colour, linestyle=DASHES[number % len(DASHES)], label=name)
        if len([points for points in lines.values() if points]) > 1:
            axes.legend(fontsize=7, frameon=False, labelcolor=INK)
    figure.tight_layout()
    last = [f"{name} {points[-1][1]:.3g}" for _, lines in series for name, points in lines.items() if points]
    figure.set_label(f"Curves of the training, at step {facts.step}: {', '.join(last)}")
    return figure


def _thinned(points: Curve) -> Curve:
    usable = [(x, y) for x, y in points if math.isfinite(y)]
    every = max(1, len(usable) // POINTS)
    return usable[::every]
