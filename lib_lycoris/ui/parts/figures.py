"""Figures on a page: an image inside the page's text, drawn when there is something to draw.

gr.Plot would import matplotlib where the page is made, a good part of what a webui's start waits for.
"""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..events import Update

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_box(elem_id: str, visible: bool = True) -> Any:
    """Add a component for a figure to the open gr.Blocks."""
    return gr.HTML("", visible=visible, elem_id=elem_id, elem_classes=["lyco_plot"])


def figure_update(figure: Figure | None) -> Update:
    """Return the update that shows a figure; None hides the component."""
    return gr.update(visible=False) if figure is None else gr.update(value=image_of(figure), visible=True)


def image_of(figure: Figure) -> str:
    """Return a figure as an SVG image, sharp on every screen; its label is the alternative text."""
    kept = BytesIO()
    figure.savefig(kept, format="svg", metadata={"Date": None})
    return f'<img alt="{escape(str(figure.get_label()))}" src="data:image/svg+xml;base64,{b64encode(kept.getvalue()).decode()}">'
