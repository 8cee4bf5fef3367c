"""How our pages look: colours come from Gradio's theme, so that dark and light both work; every rule is below our own ids."""

from __future__ import annotations

import inspect
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]  # the checkout: the webui reads these two files by itself
APP_CSS = """
#lyco_page { max-width: 1280px; margin: 0 auto; }
#lyco_about p { opacity: .75; margin: 0; }
#lyco_title h1 { margin: 0; }
footer { display: none !important; }
"""  # what the webui has no use for


def page_css() -> str:
    """Return the rules that the app shares with the webui."""
    return _text("style.css")


def script() -> str:
    """Return the scripts that the app shares with the webui."""
    return _text("javascript/lycoris.js") + _text("javascript/lycoris_pages.js")


def scripted(event: Callable[..., Any]) -> str:
    """Return the keyword under which an event takes a script for the browser: Gradio 4 renamed it."""
    return "js" if "js" in inspect.signature(event).parameters else "_js"


def opens(page: str, problem: str) -> str:
    """Return the script of an event that is given what a page says, and opens another one where that has no ``problem``.

    The value is asked for, since Gradio 3 draws it later; and it returns nothing, since Gradio 4 reads what comes back.
    """
    return f"(said) => {{ if (!String(said).includes({problem!r})) window.lycorisOpen({page!r}); }}"


def _text(name: str) -> str:
    """Return a file of the checkout without comments and indentation, as it is sent with every page."""
    path = ROOT / name
    text = path.read_text(encoding="utf-8") if path.is_file() else ""  # an installed package works without them, only plainer
    return re.sub(r"^\s+", "", re.sub(r"^\s*/\*.*?\*/$", "", text, flags=re.DOTALL | re.MULTILINE), flags=re.MULTILINE)


def bar(share: float, text: str, label: str = "progress") -> str:
    """Return a progress bar with its words, readable by screen readers."""
    percent = round(100 * min(max(share, 0.0), 1.0))
    facts = f'role="progressbar" aria-label="{escape(label)}" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}"'
    return f'<div class="lyco_bar" {facts}><div style="width:{percent}%"></div></div>{idle(text)}'


def small_picture(image: Any) -> str:
    """Return a preview, a PIL image, as part of a page's text: no file and no request of its own."""
    kept = BytesIO()
    image.convert("RGB").save(kept, "JPEG", quality=85)
    return f'<img class="lyco_preview" alt="preview" src="data:image/jpeg;base64,{b64encode(kept.getvalue()).decode()}">'


def idle(text: str, failed: bool = False, title: str = "") -> str:
    """Return the words alone, with a title to hover over; what an earlier run has left beside them is dimmed where this one failed."""
    hover = f' title="{escape(title, quote=True)}"' if title else ""
    return f'<p class="lyco_state{" lyco_failed" if failed else ""}"{hover}>{escape(text)}</p>'


def report(text: str) -> str:
    """Return a report of several lines as it was written."""
    return f'<pre class="lyco_report" tabindex="0">{escape(text)}</pre>' if text else ""


REFRESH = "↻"  # the script gives the button its words


def tag_box(tag: str, send: str) -> str:
    """Return a tag to copy and, where there is a page with a prompt, to send there; lycoris.js knows the buttons by their data."""
    text = escape(tag, quote=True)
    go = f'<button type="button" class="lyco_button" data-lyco-send="{text}">Send to {escape(send)}</button>' if send else ""
    copy = f'<button type="button" class="lyco_button" data-lyco-copy="{text}">Copy</button>'
    return f'<div class="lyco_tag"><code tabindex="0">{text}</code>{copy}{go}</div>'


def notes(applied: Sequence[str] = (), problems: Sequence[str] = (), errors: Sequence[str] = ()) -> str:
    """Return what was done and what was not, one line each; the worst first."""
    kinds = (("worse", errors), ("bad", problems), ("good", applied))
    lines = [f'<div class="lyco_note {kind}">{escape(text)}</div>' for kind, texts in kinds for text in texts]
    return f'<div role="status">{"".join(lines)}</div>' if lines else ""
