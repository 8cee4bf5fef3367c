"""The guidance on a page: one algorithm's advice in short, and all of it as tables to open."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import gradio as gr

from ...tools.guidance.advice import RULES, Advice, advice, sizes_of
from ...tools.guidance.measured import MEASURED_INTRO
from ...tools.guidance.sources import PEFT, source_name
from ...tools.guidance.tables import HEAD, INTRO, MEASURED_HEAD, SIZE_HEAD, SIZES, advice_rows, measured_rows, size_rows
from ..events import QUICK, tab_of


def advice_html(algorithm: str, family: str = "") -> str:
    """Return what is said of an algorithm, with its sources; with a family, the usual sizes too. Empty where nothing is said."""
    found = advice(algorithm)
    if found is None:
        return ""
    sizes = sizes_of(found.key, family) if family else ""
    more = " ".join(f"<span>{escape(text)}</span>" for text in (found.balance and f"At the same size: {found.balance}.", sizes) if text)
    return f'<p class="lyco_advice">{escape(found.sentence)} {more} {_sources(found)}</p>'


def guidance_part(elem_id: str) -> None:
    """Add the tables, behind a line to open, to the open gr.Blocks; they come when the tab is opened."""
    with gr.Accordion("Which algorithm for what?", open=False):
        tables = gr.HTML("", elem_id=elem_id)
    tab = tab_of(tables)
    (tab.select if isinstance(tab, gr.Tab) else tab.load)(guidance_html, None, tables, **QUICK)


def guidance_html() -> str:
    """Return the tables of algorithms and of sizes, and the rules of thumb."""
    rows = [[*(escape(cell) for cell in cells), _sources(item)] for item, cells in advice_rows()]
    rules = "".join(f"<li>{escape(text)} {_link(link)}</li>" for text, link in RULES)
    sizes, measured = ([[escape(cell) for cell in row] for row in rows] for rows in (size_rows(), measured_rows()))
    return (
        f'<div class="lyco_guidance"><p>{escape(INTRO)}</p>{_table((*HEAD, "source"), rows)}<ul>{rules}</ul>'
        f"<p>{escape(SIZES)}</p>{_table(SIZE_HEAD, sizes)}"
        f"<p>{escape(MEASURED_INTRO)} {_link(PEFT)}</p>{_table(MEASURED_HEAD, measured)}</div>"
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    table = f'<table class="lyco_guide"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="lyco_scroll" tabindex="0">{table}</div>'


def _sources(item: Advice) -> str:
    return " ".join(_link(link) for link in item.sources)


def _link(link: str) -> str:
    name = escape(source_name(link).removeprefix("LyCORIS, "))
    return f'<a href="{escape(link, quote=True)}" target="_blank" rel="noopener noreferrer">{name}</a>'
