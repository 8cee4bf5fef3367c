"""A tag of the prompt, read: which network, how strong, where and when."""

from __future__ import annotations

from dataclasses import field

from ..errors import PromptError, readable
from ..records import dataclass
from .elements import ElementRule
from .number import Moment, format_number
from .schedule import ONE, Schedule
from .weights import BlockWeights

SHOWN = 200  # characters of a tag that a sentence repeats


def shown(tag: str) -> str:
    """Return a tag's text for a sentence: what can be shown of it, cut when it is long."""
    return readable(tag if len(tag) <= SHOWN else f"{tag[:SHOWN]}...>", SHOWN + 4)


class TagError(PromptError):
    """One tag cannot be used: `tag` is its text as typed, `reason` the mistake."""

    def __init__(self, tag: str, reason: str) -> None:
        super().__init__(f"{shown(tag)}: {reason}")
        self.tag = tag
        self.reason = reason


@dataclass(frozen=True)
class Tag:
    """`<lyco:...>` with every default filled in (`Tag.of` fills them); `text`, as typed, does not count for equality.

    `te` is the strength of the first text encoder, `te2` of all others. `dyn` is the number of ranks, None for all.
    `weights` and `elements` are a preset's name or the values themselves. `start` and `stop` are 1-based steps or
    fractions of the steps. `during` says for each step whether the brackets around the tag have it on, None for always.
    `notes` are sentences on how the text was read.
    """

    name: str
    te: Schedule
    te2: Schedule
    unet: Schedule
    hrte: Schedule
    hrte2: Schedule
    hrunet: Schedule
    dyn: int | None = None
    weights: str | BlockWeights | None = None
    elements: str | tuple[ElementRule, ...] | None = None
    start: Moment | None = None
    stop: Moment | None = None
    x: float = 1.0
    during: tuple[bool, ...] | None = None
    text: str = field(default="", compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of(
        cls,
        name: str,
        te: Schedule = ONE,
        unet: Schedule | None = None,
        te2: Schedule | None = None,
        *,
        hrte: Schedule | None = None,
        hrte2: Schedule | None = None,
        hrunet: Schedule | None = None,
        dyn: int | None = None,
        weights: str | BlockWeights | None = None,
        elements: str | tuple[ElementRule, ...] | None = None,
        start: Moment | None = None,
        stop: Moment | None = None,
        x: float = 1.0,
        text: str = "",
        notes: tuple[str, ...] = (),
    ) -> Tag:
        """Return a tag; strengths left out follow `te`, those of the hires pass follow the first pass's."""
        te2, unet = te2 or te, unet or te
        places = (name, te, te2, unet, hrte or te, hrte2 or hrte or te2, hrunet or unet)
        return cls(*places, dyn or None, weights, elements, start, stop, x, None, text, notes)

    def format(self, kind: str = "lyco") -> str:
        """Write the tag shortly; reading the result gives an equal tag."""
        pieces = [self.name, self.te.format()]
        if self.unet != self.te:
            pieces.append(self.unet.format())
        named = {
            "te2": self.te2.format() if self.te2 != self.te else None,
            "dyn": self.dyn,
            "lbw": self.weights.format() if isinstance(self.weights, BlockWeights) else self.weights,
            "start": self.start,
            "stop": self.stop,
            "x": format_number(self.x) if self.x != 1 else None,
            **self._hires(),
            "lbwe": ",".join(rule.format() for rule in self.elements) if isinstance(self.elements, tuple) else self.elements,
        }
        pieces += [f"{key}={value}" for key, value in named.items() if value is not None]
        return f"<{kind}:{':'.join(pieces)}>"

    def _hires(self) -> dict[str, str]:
        if (self.hrte, self.hrte2, self.hrunet) == (self.te, self.te2, self.unet):
            return {}
        if self.hrte == self.hrte2 == self.hrunet:
            return {"hr": self.hrte.format()}
        return {key: getattr(self, key).format() for key in ("hrte", "hrte2", "hrunet")}
