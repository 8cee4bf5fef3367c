"""How our pages look: colours come from Gradio's theme, so that dark and light both work; every rule is below our own ids."""
from __future__ import annotations

from collections.abc import Sequence
from html import escape

CSS = """
#lyco_about p { opacity: .75; margin: 0; }
#lyco_title h1 { margin: 0; }
.lyco_bar { height: 10px; border-radius: 5px; overflow: hidden; background: var(--border-color-primary); }
.lyco_bar > div { height: 100%; background: var(--color-accent); transition: width .2s; }
.lyco_state { margin: 6px 0 0; min-height: 1.5em; font-variant-numeric: tabular-nums; }
.lyco_note { margin: 0 0 6px; padding: 6px 10px; border-left: 4px solid var(--border-color-primary); overflow-wrap: anywhere; }
.lyco_note.bad { border-left-color: #d97706; }
.lyco_note.worse { border-left-color: #dc2626; }
.lyco_note.good { border-left-color: #16a34a; }
#lyco_progress .min, #lyco_notes .min { min-height: 0; }
#lyco_progress { min-height: 44px; }
#lyco_refresh { align-self: center; font-weight: 400; padding: 6px 10px; min-height: 0; flex-grow: 0; }
#lyco_gallery { min-height: 320px; }
#lyco_page { max-width: 1280px; margin: 0 auto; }
footer { display: none !important; }
"""


def bar(share: float, text: str) -> str:
    """Return a progress bar with its words, readable by screen readers."""
    percent = round(100 * min(max(share, 0.0), 1.0))
    return (
        f'<div class="lyco_bar" role="progressbar" aria-label="sampling" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}">'
        f'<div style="width:{percent}%"></div></div><p class="lyco_state" aria-live="polite">{escape(text)}</p>'
    )


def idle(text: str) -> str:
    """Return the words alone."""
    return f'<p class="lyco_state" aria-live="polite">{escape(text)}</p>'


def notes(applied: Sequence[str] = (), problems: Sequence[str] = (), errors: Sequence[str] = ()) -> str:
    """Return what was done and what was not, one line each; the worst first."""
    kinds = (("worse", errors), ("bad", problems), ("good", applied))
    lines = [f'<div class="lyco_note {kind}">{escape(text)}</div>' for kind, texts in kinds for text in texts]
    return f'<div role="status">{"".join(lines)}</div>' if lines else ""
