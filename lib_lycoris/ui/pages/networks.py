"""The page Networks: all network files as cards with previews; search, filters, trigger words, notes; and on to the other pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ...errors import LycorisError
from ...hosts.protocol import NetworkCard
from ...plain_json import parse_json
from ..context import PageContext, Receiver
from ..events import QUICK, Update, on_any, sights
from ..parts.card_list import ANY, SHOWN, SORTS, Wanted, cards_html, chosen, found, options_of
from ..style import REFRESH, idle, notes, opens, scripted

FILTERS = ("search", "base", "algorithm", "folder", "tag", "sort", "only")
ONLY = ("everything", "favourites", "what fits the loaded model", "duplicates", "files with a problem")


class NetworksPage:
    """Builds the page; only the cards of one leaf are sent to the browser."""

    def __init__(self, context: PageContext) -> None:
        self.context = context

    def build(self) -> None:
        """Add the components to the open gr.Blocks."""
        self._filters()
        with gr.Row(elem_classes=["lyco_buttons"]):
            self.before, self.after = (
                gr.Button(label, size="sm", visible=False, elem_id=f"lyco_networks_{name}", min_width=90, scale=0)
                for name, label in (("before", "‹ Previous"), ("after", "Next ›"))
            )
            self.refresh = gr.Button(
                REFRESH, size="sm", elem_id="lyco_networks_refresh", scale=0, min_width=40, elem_classes=["lyco_refresh"]
            )
        self.leaf = gr.State(0)
        self.cards = gr.HTML(idle("Reading the files ..."), elem_id="lyco_networks_cards")
        self.picked = gr.Textbox("[]", elem_id="lyco_networks_picked", elem_classes=["lyco_hidden"], show_label=False, container=False)
        self.told = gr.HTML(idle("Choose cards to open them on other pages, or to write notes."), elem_id="lyco_networks_told")
        with gr.Row(elem_classes=["lyco_buttons"]):
            self.opens = {name: gr.Button(f"Open in {name}", size="sm", elem_id=f"lyco_networks_{name.lower()}", min_width=80)
                          for name in ("Merge", "Compare", "Resize", "Convert")}  # fmt: skip
        self._notes()
        self._wire()

    def _filters(self) -> None:
        with gr.Row():
            self.search = gr.Textbox(
                label="Search", placeholder="name, title, trigger word, tag, note", max_lines=1, elem_id="lyco_networks_search",
                scale=3, min_width=200,
            )  # fmt: skip
            tag = gr.Textbox(label="Training tag", max_lines=1, elem_id="lyco_networks_tag", min_width=140)
            only = gr.Dropdown(list(ONLY), value=ONLY[0], label="Show", elem_id="lyco_networks_only", min_width=200)
        with gr.Row():
            boxes = [gr.Dropdown([ANY], value=ANY, label=label, elem_id=f"lyco_networks_{name}", min_width=140)
                     for name, label in (("base", "Base model"), ("algorithm", "Algorithm"), ("folder", "Folder"))]  # fmt: skip
            sort = gr.Dropdown(list(SORTS), value=next(iter(SORTS)), label="Order", elem_id="lyco_networks_sort", min_width=140)
        self.fields = [self.search, *boxes, tag, sort, only]

    def _notes(self) -> None:
        with gr.Column(visible=False, elem_id="lyco_networks_notes") as self.form:
            with gr.Row():
                self.favourite = gr.Checkbox(label="Favourite", elem_id="lyco_networks_favourite", min_width=100)
                self.preferred = gr.Number(
                    label="Preferred strength", info="0: none", value=0, step=0.05, elem_id="lyco_networks_preferred", min_width=120
                )
                self.triggers = gr.Textbox(
                    label="Trigger words", info="with commas between", max_lines=1, elem_id="lyco_networks_triggers", scale=3, min_width=200
                )
            self.text = gr.Textbox(label="Notes", lines=2, elem_id="lyco_networks_text")
            self.save = gr.Button("Save notes", size="sm", elem_id="lyco_networks_save")
        self.details = [self.form, self.favourite, self.preferred, self.triggers, self.text, self.told]

    def _wire(self) -> None:
        inputs, view = [self.picked, self.leaf, *self.fields], self.view
        on_any([field.change for field in self.fields], self.first_leaf, inputs, view, queue=False)
        self.before.click(self.turned(-1), inputs, view, **QUICK)
        self.after.click(self.turned(1), inputs, view, **QUICK)
        self.refresh.click(self.look_again, inputs, [*view, *self.fields[1:4]], show_progress="hidden")
        self.picked.input(self.described, self.picked, self.details, **QUICK)
        saved = self.save.click(self.keep, [self.picked, *self.details[1:5]], self.told, **QUICK)
        saved.then(self.turned(0), inputs, view, **QUICK)
        self.context.later(self._wire_pages)

    @property
    def view(self) -> list[Any]:
        """The components that show a leaf."""
        return [self.cards, self.leaf, self.before, self.after]

    def _wire_pages(self, _: Any) -> None:
        inputs = [self.picked, self.leaf, *self.fields]
        for event in sights(self.form):
            event(self.opened, inputs, [*self.view, *self.fields[1:4]], **QUICK)
        for name, button in self.opens.items():
            receiver = self.context.receivers.get(name)
            if receiver is not None:
                outputs = [*receiver.outputs, self.told]
                sent = button.click(self._sender(name, receiver), [self.picked, *receiver.inputs], outputs, **QUICK)
                sent.then(None, self.told, None, **{scripted(button.click): opens(name, "worse")})

    def _sender(self, page: str, receiver: Receiver) -> Any:
        def send(picked: str, *values: Any) -> list[Any]:
            names = _names(picked)
            said = "No card is chosen; choose one first." if not names else ""
            if receiver.most is not None and len(names) > receiver.most:
                said = f"{page} takes one network at a time, and {len(names)} are chosen; choose one of them."
            if said:
                return [*(gr.update() for _ in receiver.outputs), gr.update(value=notes(errors=[said]))]
            found = receiver.take(names, *values)
            return [*(found if isinstance(found, (list, tuple)) else [found]), gr.update(value=idle(_chosen(names)))]

        return send

    def opened(self, picked: str, leaf: int, *fields: Any) -> list[Update | Any]:
        """Show the cards to somebody who opens the page, and what the filters can be set to."""
        cards = self._cards()
        bases, algorithms, folders = options_of(cards)
        shown = self._shown(cards, picked, leaf, fields)
        return [*shown, gr.update(choices=bases), gr.update(choices=algorithms), gr.update(choices=folders)]

    def look_again(self, *values: Any) -> list[Update | Any]:
        """Look at the folders again."""
        self.context.store.refresh()
        return self.opened(*values)

    def first_leaf(self, picked: str, _: int, *fields: Any) -> list[Any]:
        """Show what the filters find now, from its beginning."""
        return self._shown(self._cards(), picked, 0, fields)

    def turned(self, by: int) -> Any:
        """Return what shows a leaf further on or back."""

        def turn(picked: str, leaf: int, *fields: Any) -> list[Any]:
            return self._shown(self._cards(), picked, leaf + by, fields)

        return turn

    def _cards(self) -> Sequence[NetworkCard]:
        return () if self.context.networks is None else self.context.networks.cards()

    def _shown(self, cards: Sequence[NetworkCard], picked: str, leaf: int, fields: Sequence[Any]) -> list[Any]:
        loaded = self.context.loaded
        wanted = Wanted(**dict(zip(FILTERS, fields)), loaded=loaded.short, fits=lambda card: loaded.fits(card.path))
        all_found = found(cards, wanted)
        last = max(0, (len(all_found) - 1) // SHOWN)
        leaf = min(max(leaf, 0), last)
        part = chosen(all_found, leaf)
        html = cards_html(part, len(all_found), leaf, last, _names(picked), wanted, self.context.send)
        return [gr.update(value=html), leaf, gr.update(visible=last > 0), gr.update(visible=last > 0)]

    def described(self, picked: str) -> list[Update]:
        """Show the notes of the card that was chosen last, and how many are chosen."""
        names = _names(picked)
        if not names or self.context.networks is None:
            return [gr.update(visible=False), *(gr.update() for _ in range(4)), gr.update(value=idle("No card is chosen."))]
        try:
            card = self.context.networks.card(names[-1])
        except LycorisError as error:
            return [gr.update(visible=False), *(gr.update() for _ in range(4)), gr.update(value=notes(errors=[str(error)]))]
        said = gr.update(value=idle(_chosen(names)))
        return [
            gr.update(visible=True), gr.update(value=card.favourite), gr.update(value=card.preferred or 0),
            gr.update(value=", ".join(card.triggers)), gr.update(value=card.notes), said,
        ]  # fmt: skip

    def keep(self, picked: str, favourite: bool, preferred: float | None, triggers: str, text: str) -> Update:
        """Write the notes of the card that was chosen last."""
        names = _names(picked)
        try:
            if not names or self.context.networks is None:
                raise LycorisError("no card is chosen; choose the one that the notes are for")
            if preferred is None:
                raise LycorisError("Preferred strength: a number is missing; 0 means none")
            changes = {"favourite": bool(favourite), "preferred": preferred, "triggers": triggers.strip(), "notes": text.strip()}
            self.context.networks.keep(names[-1], changes)
        except LycorisError as error:
            return gr.update(value=notes(errors=[str(error)]))
        return gr.update(value=notes(applied=[f"Saved in {names[-1].rpartition('/')[2]}.json, next to the network."]))


def _chosen(names: Sequence[str]) -> str:
    """Return how many cards are chosen, and whose notes stand below."""
    return f"{f'{len(names)} cards are chosen. ' if len(names) > 1 else ''}Notes of {names[-1]}:"


def _names(picked: str) -> list[str]:
    """Return the chosen names as the browser holds them."""
    try:
        names = parse_json(picked or "[]")
    except ValueError:
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
