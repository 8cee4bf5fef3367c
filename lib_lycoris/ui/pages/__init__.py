"""All pages of the tab, for the app and for the webui."""

from __future__ import annotations

import traceback
from typing import Any

import gradio as gr
from gradio.context import Context

from ..context import PageContext, events_of
from ..style import notes
from ..uncollected import uncollected
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


class HostTab:
    """The tab for the webui, made right in the webui's own page: as a gr.Blocks it would first be a whole application of its own."""

    children: tuple[Any, ...] = ()  # what the webui keeps the values of, in a file of its own: we have ours

    def __init__(self, context: PageContext) -> None:
        self.context = context

    def render(self) -> None:
        """Add the pages to the open gr.Blocks; the webui calls this in the tab that it has made."""
        try:
            root = Context.root_block
            before = len(events_of(root))
            with uncollected():
                with gr.Column(elem_id="lyco_page"), gr.Tabs(elem_id="lyco_tabs"):
                    build_pages(self.context)
                self.context.finish(root, before)
        except Exception as error:  # noqa: BLE001 - nothing of ours may keep the webui from starting
            traceback.print_exc()
            gr.HTML(notes(errors=[f"The pages of LyCORIS could not be made, its tags work: {type(error).__name__}: {error}"]))


def build_pages(context: PageContext) -> None:
    """Add a tab for each page to the open gr.Tabs."""
    for label, name, page in PAGES:
        with gr.Tab(label, elem_id=f"lyco_tab_{name}"):
            page(context).build()
