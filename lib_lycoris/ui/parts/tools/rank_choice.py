"""Fields for how ranks are chosen: a rule in words, and the one number that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ....errors import ToolError
from ....records import dataclass
from ...context import PageContext
from ...events import Update

FIXED, SIZE = "the same rank everywhere", "a size of the file"
NAMES = ("rule", "rank", "share", "size", "value", "largest")
SHARES = ("energy", "sv_fro", "sv_cumulative", "quantile")  # whose value is a share from 0 to 1


@dataclass(frozen=True)
class RankRule:
    """What the fields hold: a rule of tools.ranks with its value, or a size in MB."""

    kind: str  # empty: a size
    rank: int  # of every layer; with another rule, the largest
    value: float = 0.0
    size: float | None = None


class RankChoice:
    """The fields of a page; ``rules``: what people read -> the tool's rule."""

    def __init__(self, page: str, rules: Mapping[str, str], highest: int, with_largest: bool) -> None:
        self.page, self.highest, self.with_largest = page, highest, with_largest
        self.rules = {FIXED: "fixed", SIZE: "", **rules}
        self.components: list[Any] = []

    def build(self, context: PageContext, rank: int, size: float) -> None:
        """Add the components to the open gr.Blocks; their values are kept between visits."""
        elem = f"lyco_{self.page}_"
        rule = gr.Dropdown(list(self.rules), value=FIXED, label="Ranks are chosen by", elem_id=f"{elem}rule")
        self.components = [
            rule,
            gr.Slider(1, self.highest, value=rank, step=1, label="Rank", elem_id=f"{elem}rank"),
            gr.Slider(0.1, 0.999, value=0.9, step=0.001, label="Share that is kept", visible=False, elem_id=f"{elem}share"),
            gr.Slider(0.1, 500, value=size, step=0.1, label="Size of the file (MB)", visible=False, elem_id=f"{elem}size"),
            gr.Number(value=0.5, label="Value of the rule", visible=False, elem_id=f"{elem}value"),
            gr.Slider(1, self.highest, value=self.highest, step=1, label="Largest rank", visible=False, elem_id=f"{elem}largest"),
        ]
        context.keep(self.page, dict(zip(NAMES, self.components)))

    def shown(self, rule: str, ranked: bool = True) -> list[Update]:
        """Return the updates of the components that show those that a rule needs; none where nothing has ranks."""
        kind = self.rules.get(rule, "fixed")
        needs = {"fixed": "rank", "": "size"}.get(kind, "share" if kind in SHARES else "value")
        visible = ["rule", needs, *(["largest"] if self.with_largest and kind != "fixed" else [])]
        return [gr.update(visible=ranked and name in visible) for name in NAMES]

    def read(self, values: Sequence[Any]) -> RankRule:
        """Return what the components' values mean. Raises ToolError for an empty number."""
        given = dict(zip(NAMES, values))
        kind = self.rules.get(given["rule"], "fixed")
        if kind == "fixed":
            return RankRule(kind, int(_number("Rank", given["rank"])))
        rank = int(_number("Largest rank", given["largest"]))
        if not kind:
            return RankRule(kind, rank, size=_number("Size of the file", given["size"]))
        shares = kind in SHARES
        return RankRule(kind, rank, _number("Share that is kept" if shares else "Value of the rule", given["share" if shares else "value"]))


def _number(name: str, value: Any) -> float:
    if value is None:
        raise ToolError(f"{name}: a number is missing")
    return float(value)
