"""What is known of a network as HTML; all of it comes out of files, and is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ... import models
from ...tools.examine.inspect import Inspection, Module
from ...tools.examine.inspect_text import COMPONENTS, base_model_of, reason_of, tally
from ...tools.examine.module_sizes import Sizes
from ...tools.files.networks.left_out import by_reason
from ...tools.units import megabytes
from ...wording import counted
from ..style import notes

ROWS = 200  # of a table; beyond, people search
LONGEST = 400  # characters of one value of the metadata
LISTED = 60  # keys of a list
FEW = 6  # blocks that are named one by one
NOTED = 0.3  # |cosine| from which two networks are said to act alike, or against each other
HASH_NAMES = {
    "sha256": "SHA-256 of the file", "autov2": "AutoV2, as model sites list it", "model_hash": "Weights hash (kohya)",
    "short": "Short hash in image info", "stored": "Hash that the trainer stored",
}  # fmt: skip


def overview(found: Inspection) -> str:
    """Return what is wrong with the file, and its main facts as large figures."""
    figures = {
        "size": megabytes(found.bytes), "base model": base_model_of(found), "algorithm": ", ".join(found.algorithms) or "none",
        "rank": _range(found.ranks) or "none", "alpha": _range(found.alphas) or "none",
        "tensors used": f"{found.matched_keys} of {found.keys}",
    }  # fmt: skip
    told = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in figures.items())
    heading = f'<h2 class="lyco_heading3">{escape(found.name)}</h2>'
    return f'{heading}{notes(problems=found.problems)}<dl class="lyco_figures">{told}</dl>'


def words(found: Inspection, addable: bool = False) -> str:
    """Return the trigger words and the most frequent tags of the training, each a button that copies it, and one for the prompt."""
    trigger = found.training.get("trigger", "")
    said = f'<p class="lyco_words_said">Trigger: {_copy(trigger, escape(trigger))}{_add(trigger, addable)}</p>' if trigger else ""
    most = max((count for _, count in found.tags), default=0)
    chips = "".join(_copy(tag, f"{escape(tag)} <small>{count}</small>", count == most) + _add(tag, addable) for tag, count in found.tags)
    if not said and not chips:
        return '<p class="lyco_words_said">The file names no trigger words, and no tags that it was trained on.</p>'
    hint = '<p class="lyco_hint">Training tags, most frequent first. Click to copy.</p>' if chips else ""
    return f'{said}<div class="lyco_words">{chips}</div>{hint}'


def facts(found: Inspection) -> str:
    """Return the training's settings, the details of the network and its hashes as tables."""
    network = {
        "base model": reason_of(found), "compared with": found.compared_with, "algorithms": tally(found.algorithms),
        "ranks": tally(found.ranks), "alphas": tally(found.alphas), "tensor types": tally(found.dtypes), **_components(found.modules),
    }  # fmt: skip
    for word, shapes in found.embeddings.items():
        network[f'embedding "{word}"'] = ", ".join(f"{part} {'x'.join(map(str, shape))}" for part, shape in shapes.items())
    hashes = {HASH_NAMES.get(name, name): value for name, value in found.hashes.items()}
    parts = (("Training", {name: _cut(text) for name, text in found.training.items()}), ("Network", network), ("Hashes", hashes))
    return "".join(f'<h4 class="lyco_heading4">{title}</h4>{_pairs(values)}' for title, values in parts if any(values.values()))


def details(found: Inspection) -> str:
    """Return the long lists, to be opened: keys that are not used and why, broken and dead modules, all metadata."""
    lists = (
        ("Tensors that are not used, and why", list(by_reason(found.unmatched))),
        ("Tensors with NaN or infinity", list(found.not_finite)),
        ("Dead layers: they change nothing", list(found.dead)),
    )
    made = "".join(_list(title, lines) for title, lines in lists if lines)
    metadata = {key: _cut(value) for key, value in sorted(found.metadata.items())}
    title = f"Metadata ({len(metadata)} entries)"
    return made + (_details(title, f'<div class="lyco_scroll lyco_metadata" tabindex="0">{_pairs(metadata)}</div>') if metadata else "")


def module_table(found: Inspection, sizes: Sizes | None, search: str = "", largest_first: bool = False) -> str:
    """Return the modules whose row has all words of the search, as many as a page shows well."""
    wanted = search.lower().split()
    every = (_row(module, found.layers_of, sizes) for module in found.modules)
    rows = [row for row in every if all(word in row.text for word in wanted)]
    if largest_first:
        rows.sort(key=lambda row: -1.0 if row.norm is None else row.norm, reverse=True)
    shown = "".join(row.html for row in rows[:ROWS])
    more = f" The first {ROWS} are shown; search to see the others." if len(rows) > ROWS else ""
    count = (f"{len(rows):,} of " if wanted else "") + f"{counted(len(found.modules), 'layer')}."
    head = "".join(f'<th scope="col">{name}</th>' for name in ("layer", "part", "block", "algorithm", "rank", "alpha", "‖ΔW‖"))
    table = f'<table class="lyco_guide lyco_modules"><thead><tr>{head}</tr></thead><tbody>{shown}</tbody></table>'
    return f'<p class="lyco_hint" aria-live="polite">{count}{more}</p><div class="lyco_scroll lyco_tall" tabindex="0">{table}</div>'


class _Row:
    """One module's row, with the text that the search looks at."""

    def __init__(self, cells: Sequence[str], norm: float | None) -> None:
        self.text = " ".join(cells).lower()
        self.norm = norm
        self.html = "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _row(module: Module, family: str | None, sizes: Sizes | None) -> _Row:
    name = module.parameter or module.name
    block = models.block_of(module.parameter, family) if module.parameter and family else None
    norm = sizes.norm(module.parameter) if sizes else None
    size = "0, dead" if module.dead else "" if norm is None else f"{norm:.4g}"
    rank, alpha = "" if module.rank is None else str(module.rank), "" if module.alpha is None else f"{module.alpha:g}"
    return _Row((name, COMPONENTS[module.component], block or "", module.algorithm, rank, alpha, size), norm)


def comparison(report: Mapping[str, Any]) -> str:
    """Return a report of the tool compare as tables: the networks, and each pair in plain words."""
    networks = [
        (item["name"], f"{item['norm']:.4g}", str(models.count_layers(module["parameter"] for module in item["modules"])),
         str(models.count_layers(item["dead"])), str(models.count_layers(item["spikes"])))
        for item in report["networks"]
    ]  # fmt: skip
    pairs = [
        (" and ".join(pair["networks"]), str(pair["shared"]), f"{pair['cosine']:+.3f}", f"{pair['overlap']:.1%}", verdict(pair))
        for pair in report["pairs"]
    ]
    tables = _table(("network", "size ‖ΔW‖", "layers", "dead", "spikes"), networks)
    if pairs:
        tables += _table(("pair", "shared layers", "cosine", "overlap", "in words"), pairs)
    return tables


def verdict(pair: Mapping[str, Any]) -> str:
    """Say what a pair's numbers mean for somebody who wants to use both."""
    if not pair["shared"]:
        return "they change no layer in common"
    cosine, strong = pair["cosine"], [block for block, value in pair["blocks"].items() if abs(value) >= NOTED]
    if cosine >= NOTED:
        said = "they push the same way: together they are too strong, lower both"
    elif cosine <= -NOTED:
        said = "they push against each other, and weaken each other"
    else:
        said = "they are nearly independent, and can be used together"
    where = ", ".join(strong) if len(strong) <= FEW else f"{len(strong)} of {counted(len(pair['blocks']), 'block')}"
    return said + (f"; most alike or opposed in {where}" if strong else "")


def _components(modules: Iterable[Module]) -> dict[str, str]:
    counts: dict[str, dict[str, int]] = {}
    for module in modules:
        part = counts.setdefault(COMPONENTS[module.component], {})
        part[module.algorithm] = part.get(module.algorithm, 0) + 1
    return {title: tally(part) for title, part in counts.items()}


def _range(counts: Mapping[str, int]) -> str:
    values = sorted(counts, key=float)
    return values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}" if values else ""


def _copy(text: str, shown: str, strong: bool = False) -> str:
    mark = " lyco_strong" if strong else ""
    return f'<button type="button" class="lyco_button lyco_word{mark}" data-lyco-copy="{escape(text, quote=True)}">{shown}</button>'


def _add(text: str, addable: bool) -> str:
    """Return the button that puts a word behind the prompt, where there is a page with one."""
    if not addable:
        return ""
    words = escape(text, quote=True)
    said = f'title="Add to prompt" aria-label="Add {words} to prompt"'
    return f'<button type="button" class="lyco_button lyco_word" {said} data-lyco-add="{words}">+</button>'


def _cut(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}… ({len(value):,} characters)"


def _pairs(values: Mapping[str, str]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in values.items() if text)
    return f'<table class="lyco_guide lyco_pairs"><tbody>{rows}</tbody></table>'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    table = f'<table class="lyco_guide"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="lyco_scroll" tabindex="0">{table}</div>'


def _list(title: str, lines: Sequence[str]) -> str:
    shown = "".join(f"<li>{escape(line)}</li>" for line in lines[:LISTED])
    more = f"<li>… and {len(lines) - LISTED} more</li>" if len(lines) > LISTED else ""
    return _details(f"{title} ({len(lines)})", f"<ul>{shown}{more}</ul>")


def _details(title: str, inner: str) -> str:
    return f'<details class="lyco_details"><summary>{escape(title)}</summary>{inner}</details>'
