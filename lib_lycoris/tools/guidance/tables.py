"""The guidance as tables: for the pages, and as Markdown for docs/algorithms.md."""

from __future__ import annotations

from collections.abc import Sequence

from ..units import megabytes
from .advice import ADVICE, RULES, Advice, example_sizes
from .measured import MEASURED, MEASURED_INTRO
from .sources import PEFT, source_name

HEAD = ("algorithm", "how it is asked for in training", "usual rank (dim), alpha", "good for", "watch out", "fidelity, flexibility, size")
SIZE_HEAD = ("algorithm", "setting", "layers", "SD 1.x", "SDXL")
MEASURED_HEAD = ("algorithm", "setting", "rate", "likeness", "file", "memory of the GPU", "seconds")
INTRO = (
    "Rules of thumb from the authors of the trainers, who tested mostly on SD 1 and call their own tests limited; fidelity, flexibility "
    "and size are compared at about the same number of parameters."
)
SIZES = "Expected sizes of fp16 files, computed from the layers of the models; attn-only, attn-mlp and full are LyCORIS' presets:"


def advice_rows() -> list[tuple[Advice, tuple[str, ...]]]:
    """Return each algorithm with the cells of its row."""
    return [(item, (item.name, item.asked, item.usual, item.good, item.care, item.balance or "not compared")) for item in ADVICE]


def size_rows() -> list[tuple[str, ...]]:
    """Return the usual settings with the sizes of their files."""
    names = {item.key: item.name.partition(",")[0] for item in ADVICE}
    small = example_sizes("sd1")
    large = example_sizes("sdxl")
    return [
        (names[item.key], item.setting or "-", item.preset, megabytes(first), megabytes(second))
        for (item, first), (_, second) in zip(small, large, strict=True)
    ]


def measured_rows() -> list[tuple[str, ...]]:
    """Return what PEFT's authors measured."""
    return [
        (row.name, row.setting or "-", row.rate, f"{row.likeness:.3f}", megabytes(row.file), megabytes(row.memory), str(row.seconds))
        for row in MEASURED
    ]


def as_markdown() -> str:
    """Return the section of docs/algorithms.md."""
    links = list(dict.fromkeys([link for item in ADVICE for link in item.sources] + [link for _, link in RULES] + [PEFT]))
    lines = ["## Which algorithm for what", "", INTRO, "", _row((*HEAD, "source")), _row(["---"] * (len(HEAD) + 1))]
    for item, cells in advice_rows():
        lines.append(_row((*cells, ", ".join(f"[{source_name(link)}]" for link in item.sources))))
    lines += ["", *(f"- {text} [{source_name(link)}]" for text, link in RULES), ""]
    lines += [SIZES, "", *_table(SIZE_HEAD, size_rows())]
    lines += [f"{MEASURED_INTRO} [{source_name(PEFT)}]", "", *_table(MEASURED_HEAD, measured_rows())]
    return "\n".join([*lines, *(f"[{source_name(link)}]: {link}" for link in links)]) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows), ""]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
