"""Figures: spectra, norms by block, size against error; no pyplot, so nothing stays in memory when a figure is gone.

The ground is transparent and every colour stands out from white; style.css turns dark and light around in the dark theme. The colours are
told apart by colour-blind people too (after Okabe and Ito), and no two lines differ by colour alone. A figure's label says it in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

from ...models import block_of, layout_of_all
from ...tools.units import MB, megabytes

if TYPE_CHECKING:  # matplotlib comes with the first figure: no start has to wait for it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#5f6672"  # axes and words
BLUE, RED, GREEN, PINK, GOLD, VIOLET = "#0072b2", "#c04b00", "#00795a", "#b0487f", "#876400", "#7549c4"
COLOURS = (BLUE, RED, GREEN, PINK, GOLD, VIOLET)
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
WIDTH, HEIGHT = 6.4, 2.9  # inches
BELOW = 0.5  # inches from the bottom to the axes: numbers and what they are of
ROOM_FOR_NAMES = 0.3  # inches that names take, which stand upright, beyond that
DPI = 100
SMALLEST = 1e-6  # of the largest value: smaller singular values are rounding, and would stretch the axis
CROWDED = 30  # bars beyond which only some have a name
LONGEST = 44  # characters of a layer's name in a legend


def spectra(layers: Sequence[tuple[str, Iterable[float]]], kept: Sequence[int] = (), title: str = "Singular values") -> Figure:
    """Draw singular values of some layers, falling, on a logarithmic axis; kept: the rank of each at which it is cut, marked."""
    from matplotlib import ticker

    figure, axes = _figure(title, "rank", "singular value of ΔW")
    drawn = [(short(name), [float(v) for v in values]) for name, values in layers]
    top = max((values[0] for _, values in drawn if values), default=0.0)
    for index, (name, values) in enumerate(drawn):
        shown = [value for value in values if value > top * SMALLEST]
        if not shown:
            continue
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]
        marker = "o" if len(shown) == 1 else None
        axes.plot(range(1, len(shown) + 1), shown, color=colour, linestyle=dash, marker=marker, markersize=4, linewidth=1.5, label=name)
        if index < len(kept) and 0 < kept[index] <= len(shown):
            at = kept[index]
            axes.plot([at], [shown[at - 1]], marker="D", markersize=6, color=colour, markeredgecolor=INK, linestyle="none")
            axes.axvline(at, color=colour, linewidth=0.8, linestyle=":", alpha=0.8)
    if top > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_number)
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        _legend(figure, axes)
    else:
        _nothing(axes, "nothing is changed")
    said = (f"{name} from {max(values):.3g} to {min(values):.3g}" for name, values in drawn if values)
    figure.set_label(_in_words(title, said))
    return figure


def block_norms(series: Mapping[str, Mapping[str, float]], family: str, unit: str = "‖ΔW‖ (Frobenius norm)", title: str = "") -> Figure:
    """Draw how much each block is changed, as bars in the order of the model; series: a network's name -> block -> norm."""
    ids = [block for block in layout_of_all(family) if any(block in norms for norms in series.values())]
    ids += sorted({block for norms in series.values() for block in norms} - set(ids))
    figure, axes = _figure(title or "Change by block", "block", unit)
    width = 0.84 / max(1, len(series))
    for index, (name, norms) in enumerate(series.items()):
        places = [place - 0.42 + width * (index + 0.5) for place in range(len(ids))]
        hatch = ("", "///", "...", "xxx", "\\\\\\", "+++")[index % 6]
        colour = COLOURS[index % len(COLOURS)]
        heights = [norms.get(block, 0.0) for block in ids]
        axes.bar(places, heights, width, color=colour, hatch=hatch, edgecolor=INK, linewidth=0.3, label=short(name))
    upright = len(ids) > 14
    step = 1 if len(ids) <= CROWDED else 2 + len(ids) // 64
    axes.set_xticks(range(0, len(ids), step), ids[::step], rotation=90 if upright else 0)
    axes.yaxis.set_major_formatter(_number)
    axes.grid(False, axis="x")
    if len(series) > 1:
        _legend(figure, axes, upright)
    elif upright:
        _arrange(figure, HEIGHT, BELOW + ROOM_FOR_NAMES)
    if not ids:
        _nothing(axes, "no block is changed")
    most = {name: max(norms, key=lambda block: norms[block]) for name, norms in series.items() if norms}
    said = (f"{name} most in {block}, {series[name][block]:.3g}" for name, block in most.items())
    figure.set_label(_in_words(f"{title or 'Change by block'}, {unit}", said))
    return figure


def block_totals(energies: Iterable[tuple[str, float]], family: str) -> dict[str, float]:
    """Sum energies (squared norms) of canonical parameters to a norm for each block; what no block holds is under "-"."""
    found: dict[str, float] = {}
    for name, energy in energies:
        block = block_of(name, family) or "-"
        found[block] = found.get(block, 0.0) + energy
    return {block: sqrt(energy) for block, energy in found.items()}


def size_curve(points: Sequence[tuple[int, float]], chosen: tuple[int, float] | None = None, label: str = "") -> Figure:
    """Draw the relative error of files against their sizes; points, chosen: (bytes, relative error from 0 to 1); label: of the chosen."""
    from matplotlib import ticker

    figure, axes = _figure("Size against error", "size of the file (MB)", "relative error (%)")
    sizes, errors = [size / MB for size, _ in points], [100 * error for _, error in points]
    axes.plot(sizes, errors, color=BLUE, linewidth=1.8, marker="o", markersize=3)
    if chosen is not None:
        at, error = chosen[0] / MB, 100 * chosen[1]
        axes.plot([at], [error], marker="D", markersize=8, color=RED, markeredgecolor=INK, linestyle="none")
        axes.axvline(at, color=RED, linewidth=0.8, linestyle=":")
        axes.axhline(error, color=RED, linewidth=0.8, linestyle=":")
        # beside the mark the words would cover axes and curve
        words = label or f"{megabytes(chosen[0])}, error {error:.3g} %"
        axes.set_title(words, color=RED, fontsize=9, loc="right", fontweight="bold", y=1.0)
    if sizes and max(sizes) > 12 * min(sizes):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(_number)
    axes.set_ylim(0, max([5.0, *errors, *([100 * chosen[1]] if chosen else [])]) * 1.18)
    said = [f"{megabytes(size)} with {100 * error:.3g} %" for size, error in points]
    said += [f"chosen: {megabytes(chosen[0])} with {100 * chosen[1]:.3g} %"] if chosen else []
    figure.set_label(_in_words("Relative error of the file by its size", said))
    return figure


def _in_words(title: str, said: Iterable[str]) -> str:
    """Return what a figure shows, for those who cannot see it."""
    return ": ".join(filter(None, (title, "; ".join(said))))


def short(name: str) -> str:
    """Shorten a canonical parameter for a legend; what tells two layers apart stays."""
    for long, brief in (
        ("diffusion_model.", ""), ("input_blocks.", "in."), ("output_blocks.", "out."), ("middle_block.", "mid."),
        ("transformer_blocks.", "t."), ("text_model.encoder.layers.", ""), (".weight", ""), ("transformer.", ""),
    ):  # fmt: skip
        name = name.replace(long, brief)
    name = name.replace("$", r"\$")  # matplotlib would read what is between two of them as a formula
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def _figure(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor=(0, 0, 0, 0))
    axes = figure.add_subplot(facecolor=(0, 0, 0, 0))
    axes.set_title(title, color=INK, fontsize=10, loc="left", fontweight="bold", y=1.0)  # a place found by itself takes a second layout
    axes.set_xlabel(across, color=INK, fontsize=9)
    axes.set_ylabel(up, color=INK, fontsize=9)
    axes.tick_params(which="both", colors=INK, labelsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    axes.grid(True, color=INK, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    _arrange(figure, HEIGHT, BELOW)
    return figure, axes


def _arrange(figure: Figure, height: float, below: float) -> None:
    """Set the margins (inches): they do not move with the values, and matplotlib's own search for them takes longer than the drawing."""
    figure.set_figheight(height)
    figure.subplots_adjust(left=0.76 / WIDTH, right=1 - 0.12 / WIDTH, top=1 - 0.3 / height, bottom=below / height)


def _legend(figure: Figure, axes: Axes, names: bool = False) -> None:
    count = len(axes.get_legend_handles_labels()[0])
    if not count:
        return
    rows = 0.19 * ((count + 1) // 2)
    _arrange(figure, HEIGHT + rows, BELOW + rows + (ROOM_FOR_NAMES if names else 0.05))
    figure.legend(loc="lower center", ncols=min(2, count), fontsize=7.5, frameon=False, labelcolor=INK, handlelength=3, borderaxespad=0.1)


def _nothing(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=INK, fontsize=10)


def _number(value: float, _: object = None) -> str:
    return f"{value:.3g}" if value else "0"
