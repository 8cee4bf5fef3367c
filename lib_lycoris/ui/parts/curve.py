"""Size against error, drawn while a slider moves: the figure and the sentence of the chosen point, from values measured before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ...errors import LycorisError
from ...tools.linalg.size_curve import CurveRequest, Point, Spectra
from ...tools.units import megabytes
from ..events import Update
from ..style import idle, notes
from .figures import figure_box, figure_update
from .plots import size_curve, spectra

PAUSE = 0.12  # seconds without a change before a figure is drawn: a slider sends many
LAYERS = 5  # whose singular values are drawn: those that change most
Find = Callable[..., "tuple[Spectra, CurveRequest] | str"]  # values of the fields -> what to draw, or why there is nothing


class CurveView:
    """A plot of size against error, one of singular values, and a sentence; they follow the fields of a page."""

    def __init__(self, name: str, empty: str) -> None:
        self.name, self.empty = name, empty
        self.last: tuple[Any, ...] | None = None  # the fields' values when it was drawn last
        self._find: Find = lambda *_: empty
        self._newest = 0
        self._count = threading.Lock()

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        self.sentence = gr.HTML(idle(self.empty), elem_id=f"lyco_{self.name}_curve_text", elem_classes=["lyco_plan"])
        self.plot = figure_box(f"lyco_{self.name}_curve", visible=False)
        with gr.Accordion("Singular values of the layers that change most", open=False, visible=False) as self.more:
            self.values = figure_box(f"lyco_{self.name}_spectra")

    @property
    def outputs(self) -> list[Any]:
        """The components that :meth:`draw` updates."""
        return [self.sentence, self.plot, self.more, self.values]

    def watch(self, fields: Sequence[Any], find: Find) -> None:
        """Draw anew when a field changes; of several changes in a row only the last is drawn."""
        self._find = find
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
        for field in fields:
            # Gradio 3 drops what changes while it waits for the last answer, hence the second look
            field.change(self._follow, list(fields), self.outputs, **quick).then(self._settled, list(fields), self.outputs, **quick)

    def _follow(self, *values: Any) -> list[Update]:
        with self._count:
            self._newest += 1
            mine = self._newest
        time.sleep(PAUSE)
        drawn = self.draw(*values) if mine == self._newest else []
        return drawn if mine == self._newest else [gr.update() for _ in self.outputs]  # a slow one may end after a newer one

    def _settled(self, *values: Any) -> list[Update]:
        return [gr.update() for _ in self.outputs] if values == self.last else self.draw(*values)

    def draw(self, *values: Any) -> list[Update]:
        """Return the updates of ``outputs`` for the values of the fields."""
        self.last = values
        try:
            found = self._find(*values)
            if isinstance(found, str):
                return self._nothing(idle(found))
            measured, asked = found
        except (LycorisError, OSError, RuntimeError, ValueError):
            return self._nothing("")  # the plan below says what is wrong
        try:
            point, points = measured.point(asked), measured.curve(asked)
        except LycorisError as error:
            return self._nothing(notes(problems=[str(error)]))
        strongest = measured.strongest(LAYERS)
        kept = [measured.rank_of(layer, asked, point) for layer in strongest]
        figure = size_curve([(p.bytes, p.error) for p in points], (point.bytes, point.error))
        lines = [(layer.name, layer.values.tolist()) for layer in strongest]
        values_figure = spectra(lines, kept, "Singular values, and where they are cut")
        said = gr.update(value=idle(sentence(asked, point)))
        shown = gr.update(visible=True)
        return [said, figure_update(figure), shown, figure_update(values_figure)]

    def again(self) -> list[Update]:
        """Draw for the values of the last time, with what was measured since."""
        return [gr.update() for _ in self.outputs] if self.last is None else self.draw(*self.last)

    def _nothing(self, text: str) -> list[Update]:
        hidden = gr.update(visible=False)
        return [gr.update(value=text), hidden, hidden, gr.update()]


def sentence(asked: CurveRequest, point: Point) -> str:
    """Return what a choice gives, in words: the figure's other reading, for those who cannot see it."""
    ranks = sorted(set(point.ranks))
    spread = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}" if ranks else "no ranks"
    kept = 1 - point.error**2
    return f"{spread}: about {megabytes(point.bytes)}, relative error {point.error:.1%} ({kept:.1%} of the change's energy is kept)"
