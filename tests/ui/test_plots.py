"""Figures: what they show is what they were given, in both themes and for everybody."""

from __future__ import annotations

import io
import math
import re
from base64 import b64decode
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from lib_lycoris.models import layout
from lib_lycoris.ui.parts import plots
from lib_lycoris.ui.parts.figures import image_of

ROOT = Path(__file__).resolve().parents[2]
LIGHT, DARK = (1.0, 1.0, 1.0), (11 / 255, 15 / 255, 25 / 255)  # the grounds of Gradio's themes


def luminance(colour: tuple[float, ...]) -> float:
    """Return WCAG's relative luminance."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def turned(colour: tuple[float, ...]) -> tuple[float, ...]:
    """Return what the dark theme's filter makes of a colour: invert(1), then hue-rotate(180deg) as the Filter Effects module defines it."""
    matrix = ((-0.574, 1.430, 0.144), (0.426, 0.430, 0.144), (0.426, 1.430, -0.856))
    return tuple(min(1.0, max(0.0, sum(weight * (1 - part) for weight, part in zip(row, colour)))) for row in matrix)


def test_every_colour_stands_out_in_both_themes() -> None:
    assert ".dark #lyco_page .lyco_plot img {\n    filter: invert(1) hue-rotate(180deg);" in page_css_file()
    for colour in (plots.INK, *plots.COLOURS):
        assert contrast(to_rgb(colour), LIGHT) >= 4.5 and contrast(turned(to_rgb(colour)), DARK) >= 4.5, colour


def page_css_file() -> str:
    return (ROOT / "style.css").read_text(encoding="utf-8")


def test_nothing_stays_with_pyplot_and_the_ground_is_transparent() -> None:
    before = plt.get_fignums()
    figure = plots.size_curve([(1_000_000, 0.5), (2_000_000, 0.1)])
    assert plt.get_fignums() == before
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    with Image.open(picture) as image:
        assert image.convert("RGBA").getpixel((0, 0))[3] == 0


def test_a_figure_is_an_image_in_the_page_with_its_words() -> None:
    made = image_of(plots.block_norms({'<b>"x"': {"IN01": 1.0, "OUT03": 2.5}}, "sd1"))
    alt, code = re.fullmatch(r'<img alt="([^"]*)" src="data:image/svg\+xml;base64,([^"]+)">', made).groups()  # type: ignore[union-attr]
    assert alt == "Change by block, ‖ΔW‖ (Frobenius norm): &lt;b&gt;&quot;x&quot; most in OUT03, 2.5"
    assert b64decode(code).startswith(b"<?xml") and b"<svg" in b64decode(code)
    assert plots.spectra([("a", [4.0, 1.0])]).get_label() == "Singular values: a from 4 to 1"
    assert plots.size_curve([(1_000_000, 0.5)], (1_000_000, 0.5)).get_label().endswith("1.0 MB with 50 %; chosen: 1.0 MB with 50 %")


def test_spectra_are_drawn_as_they_are_and_marked_where_they_are_cut() -> None:
    values = [[4.0, 2.0, 1.0], [3.0, 0.3]]
    names = [f"diffusion_model.input_blocks.{n}.1.transformer_blocks.0.attn1.to_q.weight" for n in (1, 2)]
    axes = plots.spectra(list(zip(names, values)), kept=[2, 1]).axes[0]
    lines = [line for line in axes.lines if line.get_linestyle() not in ("None",) and len(line.get_xdata()) > 1 and not _upright(line)]
    assert [list(line.get_ydata()) for line in lines] == values and [list(line.get_xdata()) for line in lines] == [[1, 2, 3], [1, 2]]
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "D"]
    assert marks == [(2, 2.0), (1, 3.0)]
    assert axes.get_yscale() == "log" and axes.get_xlabel() == "rank" and "singular value" in axes.get_ylabel()
    assert len({str(line.get_linestyle()) for line in lines}) == len(lines)  # told apart without colour
    assert [line.get_label() for line in lines] == ["in.1.1.t.0.attn1.to_q", "in.2.1.t.0.attn1.to_q"]


def _upright(line: object) -> bool:
    across = list(line.get_xdata())  # type: ignore[attr-defined]
    return len(set(across)) == 1


def test_what_is_rounding_is_not_drawn_and_nothing_is_said() -> None:
    line = plots.spectra([("a", [1.0, 0.5, 1e-9])]).axes[0].lines[0]
    assert list(line.get_ydata()) == [1.0, 0.5]
    for layers in ([], [("a", [0.0])], [("a", [])]):
        assert [text.get_text() for text in plots.spectra(layers).axes[0].texts] == ["nothing is changed"]


def test_blocks_are_bars_in_the_order_of_the_model() -> None:
    figure = plots.block_norms({"one": {"OUT03": 2.0, "IN01": 1.0, "-": 0.5}, "two": {"BASE": 3.0}}, "sd1")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["BASE", "IN01", "OUT03", "-"]
    assert [[bar.get_height() for bar in group] for group in axes.containers] == [[0.0, 1.0, 2.0, 0.5], [3.0, 0.0, 0.0, 0.0]]
    assert len({group[0].get_hatch() for group in axes.containers}) == 2
    assert "‖ΔW‖" in axes.get_ylabel() and [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    assert plots.block_norms({}, "sd1").axes[0].texts[0].get_text() == "no block is changed"


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
def test_every_layout_has_room(family: str) -> None:
    axes = plots.block_norms({"a": dict.fromkeys(layout(family), 1.0)}, family).axes[0]
    assert len(axes.containers[0]) == len(layout(family))
    assert len(axes.get_xticklabels()) <= 31


def test_energies_are_summed_by_block() -> None:
    found = plots.block_totals(
        [("diffusion_model.input_blocks.1.1.proj_in.weight", 9.0), ("diffusion_model.input_blocks.1.0.in_layers.2.weight", 16.0),
         ("transformer.text_model.encoder.layers.0.mlp.fc1.weight", 4.0), ("diffusion_model.time_embed.0.weight", 1.0)], "sd1",
    )  # fmt: skip
    assert found == {"IN01": 5.0, "BASE": 2.0, "-": 1.0}


def test_the_curve_has_the_points_and_marks_the_chosen_one() -> None:
    points = [(1_000_000, 0.5), (4_000_000, 0.25), (32_000_000, 0.01)]
    axes = plots.size_curve(points, chosen=(4_000_000, 0.25)).axes[0]
    assert list(axes.lines[0].get_xdata()) == [1, 4, 32] and list(axes.lines[0].get_ydata()) == pytest.approx([50, 25, 1])
    mark = next(line for line in axes.lines if line.get_marker() == "D")
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (4, 25)
    assert axes.get_title("right") == "4.0 MB, error 25 %"
    assert "MB" in axes.get_xlabel() and "%" in axes.get_ylabel() and axes.get_xscale() == "log"
    assert plots.size_curve(points[:2]).axes[0].get_xscale() == "linear"


def test_a_name_with_signs_of_formulas_is_a_name() -> None:
    assert plots.short("a$b$c") == r"a\$b\$c"
    assert len(plots.short("x" * 200)) == plots.LONGEST
    plots.spectra([("$\\frac{$", [1.0, 0.5])]).savefig(io.BytesIO(), format="png")


def test_a_figure_is_drawn_in_the_time_of_a_slider() -> None:
    figure = plots.size_curve([(n << 20, math.exp(-n / 9)) for n in range(1, 20)], (5 << 20, 0.5))
    assert figure.get_layout_engine() is None  # a search for margins takes three times as long as the drawing
