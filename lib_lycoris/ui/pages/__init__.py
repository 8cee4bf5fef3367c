"""All pages of the tab, for the app and for the webui."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..context import PageContext
from .blocks import BlocksPage
from .change import ChangePage
from .extract import ExtractPage
from .inspect import InspectPage
from .merge import MergePage
from .networks import NetworksPage
from .results import ResultsPage
from .train import TrainPage

PAGES: tuple[tuple[str, str, Any], ...] = (  # label, name in ids, page
    ("Networks", "networks", NetworksPage),
    ("Merge", "merge", MergePage),
    ("Extract", "extract", ExtractPage),
    ("Resize, convert, bake", "change", ChangePage),
    ("Block weight", "blocks", BlocksPage),
    ("Inspect", "inspect", InspectPage),
    ("Train", "train", TrainPage),
    ("Results", "results", ResultsPage),
)


def build_tab(context: PageContext) -> gr.Blocks:
    """Return the tab for the webui, which keeps the values of all components in a file of its own unless they say otherwise."""
    with gr.Blocks(analytics_enabled=False) as blocks:
        with gr.Column(elem_id="lyco_page"), gr.Tabs(elem_id="lyco_tabs"):
            build_pages(context)
        context.finish(blocks)
    for part in blocks.blocks.values():
        part.do_not_save_to_config = True
    return blocks


def build_pages(context: PageContext) -> None:
    """Add a tab for each page to the open gr.Tabs."""
    for label, name, page in PAGES:
        with gr.Tab(label, elem_id=f"lyco_tab_{name}"):
            page(context).build()
