"""Cards of networks: which of them a search and the filters find, in which order, and their HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from ...hosts.protocol import NetworkCard
from ...models import FAMILIES
from ...prompt import escape_name
from ...prompt.number import format_number
from ...records import dataclass
from ...tools.units import megabytes
from ...wording import counted
from ..style import REFRESH
from .generation.images import thumbnail

SHOWN = 24  # cards of a leaf
SIDE = 192  # pixels of a preview
ANY, UNKNOWN, TOP = "any", "Unknown", "(top)"
BASES = {family.short for family in FAMILIES.values()}  # notes may have other words, which say nothing of what a network fits
TRIGGERS = 4  # words on a card
SORTS: dict[str, Callable[[NetworkCard], Any]] = {
    "by name": lambda card: card.name.lower(),
    "newest first": lambda card: -card.changed,
    "favourites first": lambda card: (not card.favourite, card.name.lower()),
    "largest first": lambda card: -card.size,
    "by base model": lambda card: (card.base, card.name.lower()),
}


@dataclass(frozen=True)
class Wanted:
    """What the page's fields ask for."""

    search: str = ""
    base: str = ANY
    algorithm: str = ANY
    folder: str = ANY
    tag: str = ""
    sort: str = "by name"
    only: str = "everything"
    loaded: str = ""  # the loaded model's family, as cards call it
    fits: Callable[[NetworkCard], bool] = lambda _: True  # the loaded model, of networks whose base model is not known

    def is_for_another(self, card: NetworkCard) -> bool:
        """Tell whether a network is for another model than the loaded one."""
        return bool(self.loaded) and (card.base != self.loaded if card.base in BASES else not self.fits(card))


def found(cards: Sequence[NetworkCard], wanted: Wanted) -> list[NetworkCard]:
    """Return the cards that were asked for, in the order that was asked for."""
    words = (wanted.search or "").lower().split()
    twins = twins_of(cards)
    kept = [card for card in cards if _matches(card, wanted, words, twins)]
    return sorted(kept, key=SORTS.get(wanted.sort, SORTS["by name"]))


def twins_of(cards: Sequence[NetworkCard]) -> set[str]:
    """Return the contents that more than one file has."""
    counts = Counter(card.content for card in cards if card.content)
    return {content for content, count in counts.items() if count > 1}


def _matches(card: NetworkCard, wanted: Wanted, words: Sequence[str], twins: set[str]) -> bool:
    if wanted.base not in (ANY, None, card.base) or wanted.folder not in (ANY, None, card.folder or TOP):
        return False
    if wanted.algorithm not in (ANY, None) and wanted.algorithm not in card.algorithms:
        return False
    tag = (wanted.tag or "").strip().lower()
    if tag and not any(tag in name.lower() for name, _ in card.tags):
        return False
    kinds = {
        "favourites": card.favourite, "what fits the loaded model": not wanted.is_for_another(card), "duplicates": card.content in twins,
        "files with a problem": bool(card.broken),
    }  # fmt: skip
    if not kinds.get(wanted.only, True):
        return False
    if not words:
        return True
    text = " ".join([card.name, card.title, card.notes, *card.triggers, *(name for name, _ in card.tags)]).lower()
    return all(word in text for word in words)


def options_of(cards: Sequence[NetworkCard]) -> tuple[list[str], list[str], list[str]]:
    """Return what the filters of base model, algorithm and folder can be set to."""
    bases = sorted({card.base for card in cards if card.base})
    algorithms = sorted({name for card in cards for name in card.algorithms})
    folders = sorted({card.folder or TOP for card in cards})
    return [ANY, *bases], [ANY, *algorithms], [ANY, *folders]


def chosen(cards: Sequence[NetworkCard], leaf: int) -> Sequence[NetworkCard]:
    """Return the cards of a leaf."""
    return cards[leaf * SHOWN : (leaf + 1) * SHOWN]


def cards_html(
    cards: Sequence[NetworkCard], count: int, leaf: int, last: int, picked: Sequence[str], wanted: Wanted, send: str
) -> str:  # fmt: skip
    """Return a leaf of cards."""
    if not count:
        return f'<p class="lyco_state">No network file is like that. Choose other filters, or press {REFRESH} for files that are new.</p>'
    twins = twins_of(cards)
    where = counted(count, "network") + (f", page {leaf + 1} of {last + 1}" if last else "")
    body = "".join(_card(card, card.name in picked, wanted, card.content in twins, send) for card in cards)
    return f'<p class="lyco_state">{where}</p><ul class="lyco_cards">{body}</ul>'


def _base(card: NetworkCard, wanted: Wanted) -> tuple[str, str]:
    """Return what is said of a card's base model among its facts, and as a mark where it is another one than the loaded."""
    told = "" if card.base == UNKNOWN else card.base
    if wanted.is_for_another(card):
        return told, f"for {told}" if told else "not for the loaded model"
    return told or ("fits the loaded model" if wanted.loaded and not card.broken else ""), ""


def _card(card: NetworkCard, picked: bool, wanted: Wanted, twin: bool, send: str) -> str:
    name, tag = escape(card.name), escape(f"<lyco:{escape_name(card.name)}:{format_number(card.preferred or 1)}>")
    address = thumbnail(card.preview, SIDE) if card.preview is not None else ""
    letters = escape(card.algorithms[0] if card.algorithms else card.name[:2])
    picture = f'<img src="{address}" alt="">' if address else f'<span class="lyco_card_blank" aria-hidden="true">{letters}</span>'
    base, foreign = _base(card, wanted)
    marks = filter(None, ["cannot be read" if card.broken else "", foreign, "duplicate" if twin else ""])
    facts = ", ".join(filter(None, [*card.algorithms[:2], base, megabytes(card.size)]))
    flags = "".join(f'<span class="lyco_mark" title="{escape(card.broken)}">{escape(mark)}</span>' for mark in marks)
    return (
        f'<li class="lyco_card" data-name="{name}"><button type="button" class="lyco_card_pick" data-lyco-pick'
        f' aria-pressed="{"true" if picked else "false"}">{picture}'
        f'<span class="lyco_card_name">{"★ " if card.favourite else ""}{name}</span></button>'
        f'<p>{escape(facts)}</p>{flags}<p class="lyco_card_words">{_buttons(card, tag, send)}</p></li>'
    )


def _buttons(card: NetworkCard, tag: str, send: str) -> str:
    """Return the buttons that write into the prompt; without a page that has one they copy."""
    does = "send" if send else "copy"
    words = [(tag, f"Add {card.name} to the prompt" if send else f"Copy the tag of {card.name}", "Add" if send else "Copy")]
    words += [(escape(word), f"Trigger word: {word}", word) for word in card.triggers[:TRIGGERS]]
    return "".join(
        f'<button type="button" class="lyco_button" data-lyco-{does}="{text}" title="{escape(title)}">{escape(label[:40])}</button>'
        for text, title, label in words
    )
