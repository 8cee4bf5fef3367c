"""The image of the model on the page Block weight, as HTML: every block is a slider with its own colour and the bar of its norm.

The values that the user sets travel as text in the page's own field, by the script in javascript/lycoris.js.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

from ...prompt.number import format_number
from ...tools.examine.block_norms import BlockNorm
from ...wording import counted
from .layouts import Layout
from .values import BlockValues, rows

LOW, HIGH, STEP = -1, 2, 0.05  # of the sliders; the fields beside them take any number
NAMES = {
    "BASE": "text encoder", "M00": "middle", "CLIP": "text encoder CLIP", "CLIPL": "text encoder CLIP-L", "CLIPG": "text encoder CLIP-G",
    "T5": "text encoder T5", "TE": "text encoder", "LLM": "adapter of the language model", "IN": "input layers", "OUT": "output layers",
}  # fmt: skip
SIDES = {"IN": "encoder", "OUT": "decoder"}  # of a UNet
COLUMN = 19  # blocks of a transformer below each other
Norms = Mapping[str, BlockNorm]


def picture(sliders: BlockValues, norms: Norms | None = None) -> str:
    """Return the image; ``norms`` is empty until the chosen network has been measured."""
    draw = _Drawing(sliders, norms or {})
    body = draw.unet() if sliders.layout.depth else draw.transformer()
    order = " ".join(sliders.blocks)  # of the values, which is not that of the image
    label = "Weights of the model's blocks, from where data comes in to where it goes out"
    return f'<div class="lyco_model" data-order="{order}" role="group" aria-label="{label}">{body}</div>'


def bars(sliders: BlockValues, norms: Norms) -> str:
    """Return what a measurement adds to the image, as JSON: block -> width of its bar in percent, and what it says.

    The script puts them in: a new image would take a slider away from under the hand that moves it.
    """
    draw = _Drawing(sliders, norms)
    return json.dumps({block: (draw.share(block), draw.said(block)) for block in sliders.blocks})


class _Drawing:
    def __init__(self, sliders: BlockValues, norms: Norms) -> None:
        self.sliders = sliders
        self.norms = norms
        self.values = dict(zip(sliders.blocks, sliders.shown))
        self.largest = max((norm.size or 0.0 for block, norm in norms.items() if block in self.values), default=0.0)

    def unet(self) -> str:
        """Return encoder down, middle, decoder up; what is side by side is joined by a skip connection."""
        levels, depth = rows(self.sliders.layout), self.sliders.layout.depth
        parts = [self._aside(["BASE"]), _heading("Encoder (IN)"), "<span></span>", _heading("Decoder (OUT)")]
        for encoder, decoder in levels:
            index = int(encoder[2:]) if encoder else depth - 1 - int(decoder[3:])
            level = index // 3
            skip = '<span class="lyco_skip" aria-hidden="true"></span>' if encoder and decoder else "<span></span>"
            parts += [self._cell(encoder, level), skip, self._cell(decoder, level)]
        middle = self._block("M00") if "M00" in self.values else ""
        return f'<div class="lyco_unet">{"".join(parts)}<div class="lyco_middle">{middle}</div></div>'

    def transformer(self) -> str:
        """Return the columns of a transformer's blocks, read downwards."""
        columns, kinds = [], self.sliders.layout.kinds
        for kind, name in kinds.items():
            mine = [block for block in self.sliders.blocks if block[:-2] == kind]
            height = -(-len(mine) // -(-len(mine) // COLUMN)) if mine else 1  # columns of one height
            for start in range(0, len(mine), height):
                part = mine[start : start + height]
                title = f"{name.capitalize()} {part[0]} to {part[-1]}"
                columns.append(f'<div class="lyco_column">{_heading(title)}{"".join(map(self._block, part))}</div>')
        others = [block for block in self.sliders.blocks if block[:-2] not in kinds]
        before, after = ([block for block in others if (block == "OUT") == last] for last in (False, True))
        return f'{self._aside(before)}<div class="lyco_transformer">{"".join(columns)}</div>{self._aside(after)}'

    def _aside(self, blocks: Sequence[str]) -> str:
        return f'<div class="lyco_aside">{"".join(map(self._block, blocks))}</div>'

    def _cell(self, block: str, level: int) -> str:
        inner = self._block(block) if block else ""
        return f'<div class="lyco_cell" style="--level:{level}">{inner}</div>'

    def _block(self, block: str) -> str:
        value, touched = self.values[block], self.sliders.is_touched(block)
        number, said = format_number(value), self.said(block)
        state = ("" if touched else " lyco_untouched") + (" lyco_negative" if value < 0 else " lyco_strong" if value > 1 else "")
        name = escape(f"{block}, {title(block, self.sliders.layout)}")
        return (
            f'<div class="lyco_block{state}" data-block="{block}" style="{_colours(value)}" title="{name}: {escape(said)}">'
            f'<span class="lyco_name" aria-hidden="true">{block}</span>{self._bar(block)}'
            f'<input type="range" min="{LOW}" max="{HIGH}" step="{STEP}" value="{number}" aria-label="{name}; {escape(said)}" '
            'autocomplete="off">'
            f'<input type="number" step="{STEP}" value="{number}" tabindex="-1" aria-label="{name}, as a number" autocomplete="off"></div>'
        )

    def _bar(self, block: str) -> str:
        return f'<span class="lyco_norm" aria-hidden="true"><i style="width:{self.share(block)}%"></i></span>'

    def share(self, block: str) -> int:
        """Return the width of a block's bar in percent of the largest."""
        norm = self.norms.get(block)
        share = (norm.size or 0.0) / self.largest if norm is not None and self.largest else 0.0
        return round(100 * share)

    def said(self, block: str) -> str:
        """Return what the network does to a block."""
        if not self.sliders.is_touched(block):
            return "the network changes nothing here"
        if self.sliders.touched is None:
            return "no network is chosen"
        changes = self.sliders.touched[block]
        return f"{counted(changes, 'layer')}{_size(self.norms.get(block))}"


def _size(norm: BlockNorm | None) -> str:
    if norm is None:
        return ""
    if norm.norm is None:
        return ", their size depends on the base model"
    return f", size {norm.norm:.3g}" if norm.relative is None else f", size {norm.relative:.2%} of the base weights"


def _colours(value: float) -> str:
    """Return how far a value is from 0, and from where to where its slider is coloured; lycoris.js does the same."""
    low, high = (100 * (min(max(end, LOW), HIGH) - LOW) / (HIGH - LOW) for end in (min(value, 0), max(value, 0)))
    return f"--w:{min(abs(value), 1):.3g};--a:{low:.4g}%;--b:{high:.4g}%"


def _heading(text: str) -> str:
    return f'<p class="lyco_heading">{escape(text)}</p>'


def title(block: str, layout: Layout) -> str:
    """Return what a block of a layout is, for people."""
    if block in NAMES:
        return NAMES[block]
    kind = (SIDES if layout.depth else layout.kinds).get(block[:-2])
    return f"{kind} {int(block[-2:])}" if kind else "text encoder"  # only those have names of their own


def unit(norms: Norms) -> str:
    """Return what the bars measure, as a formula."""
    relative = any(norm.relative is not None for norm in norms.values())
    return "‖ΔW‖ / ‖W‖, against the weights of the loaded model" if relative else "‖ΔW‖ at strength 1"


def legend(norms: Norms, left_out: Sequence[str] = ()) -> str:
    """Return one line on what the bars mean, and what of the network the sliders do not show."""
    if not norms:
        return ""
    parts = []
    parts.append("Grey bars: how much the network changes each block.")
    missing = sum(norm.changes - norm.measured for norm in norms.values())
    if missing:
        parts.append(f"Not in the bars: {counted(missing, 'layer')} whose change depends on a base model that is not loaded.")
    if left_out:
        parts.append(f"The network also changes {', '.join(sorted(left_out))}: this layout lacks them, they get 0.")
    if "-" in norms:
        count = norms["-"].changes
        parts.append(f"In no block, so without a weight: {counted(count, 'layer')} (time embeddings, the head).")
    return " ".join(parts)
