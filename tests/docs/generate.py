"""Writes the parts of docs/ that follow from the code: `python -m tests.docs.generate`; a test compares them.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from lib_lycoris.algorithms import KINDS
from lib_lycoris.models import FAMILIES, layout
from lib_lycoris.networks.settings.refused import INITS, METHODS, VARIANTS
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.cli import MOST_SHOWN
from lib_lycoris.tools.declaration import Option
from lib_lycoris.tools.guidance.tables import as_markdown
from lib_lycoris.tools.option_names import spelled
from lib_lycoris.tools.registry import VERBS, tools_of
from lib_lycoris.tools.training.option import DATASETS, KOHYA, TrainingOption
from lib_lycoris.tools.training.options import OPTIONS as TRAINING

DOCS = Path(__file__).resolve().parents[2] / "docs"
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def guidance() -> str:
    """Return which algorithm is for what."""
    return as_markdown().partition("\n\n")[2]  # without its heading: the page has one


def options() -> str:
    """Return a table of options for each verb that is a tool."""
    return "\n".join(verb_options(verb, summary) for verb, summary in VERBS.items())


def verb_options(verb: str, summary: str) -> str:
    """Return the options of a verb: a row each, by the order of its tools."""
    known = {option.name: option for tool in reversed(tools_of(verb)) for option in reversed(tool.options)}
    rows = [row(option) for option in reversed(known.values()) if not (option.ignored or option.refused)]
    others = [option for option in known.values() if option.ignored or option.refused]
    lines = [f"### {verb}", "", f"{summary[0].upper()}{summary[1:]}.", "", "| option | meaning |", "|---|---|", *rows, ""]
    if others:
        lines += ["| kohya's option | here |", "|---|---|", *map(without_meaning, others), ""]
    return "\n".join(lines)


def row(option: Option) -> str:
    """Return an option as a row of a table."""
    names = ", ".join(f"`{flag}`" for flag in option.flags)
    facts = [as_flags(option.help)]
    if len(option.choices) > MOST_SHOWN:
        facts.append("an id of [families.md](families.md)")
    elif option.choices:
        facts.append("one of " + ", ".join(f"`{choice}`" for choice in option.choices))
    if option.default not in (None, False, ()):
        facts.append(f"default: `{option.default}`")
    return f"| {names} | {'; '.join(facts)} |".replace("|W|", "\\|W\\|")


def without_meaning(option: Option) -> str:
    """Return a row that says why an option is accepted without effect, or refused."""
    said = as_flags(option.ignored or option.refused).replace(f"`{option.flags[0]}`", "it", 1)
    return f"| `{option.flags[0]}` | {'accepted' if option.ignored else 'refused'}: {said} |"


def as_flags(text: str) -> str:
    """Return a text with the options of any tool as they are typed."""
    return spelled(text, (option for tool in TOOLS.values() for option in tool.options), lambda option: f"`{option.flags[0]}`")


def algorithms() -> str:
    """Return a row for each file of algorithms: what it holds, and the formula of its first line."""
    by_file: dict[str, list[str]] = {}
    for kind in KINDS:
        by_file.setdefault(kind.__module__, []).append(kind.__name__)
    rows = [f"| {', '.join(kinds)} | {formula(module)} |" for module, kinds in sorted(by_file.items(), key=lambda item: item[1][0].lower())]
    return "\n".join(["| algorithm | at strength 1 |", "|---|---|", *rows])


def formula(module: str) -> str:
    """Return the first paragraph of a module's docstring."""
    text = (sys.modules[module].__doc__ or "").strip().partition("\n\n")[0]
    return "`" + " ".join(text.replace("`", "").split()).rstrip(".").replace("|", "\\|") + "`"


def refused() -> str:
    """Return the methods that are known and not read, with the reason."""
    reasons = {**{name: why for name, (_, _, why) in METHODS.items()}, **INITS, **VARIANTS}
    return "\n".join(["| method or setting | why it is refused |", "|---|---|", *(f"| {name} | {why} |" for name, why in reasons.items())])


def families() -> str:
    """Return a row for each family: what networks of it can change, and its blocks."""
    rows = []
    for name, family in FAMILIES.items():
        parts = ", ".join(component.key for component in family.components)
        variants = ", ".join(variant for variant in family.variants if variant)
        counts = ", ".join(map(str, family.blocks.counts)) or "-"
        rows.append(f"| `{name}` | {family.label} | {variants or '-'} | {parts} | {', '.join(ranges(layout(name)))} | {counts} |")
    head = "| id | base model | variants | parts | blocks | values of a block weight |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def ranges(blocks: Sequence[str]) -> list[str]:
    """Return block ids with runs of numbers drawn together: IN00-IN11."""
    found: list[list[str]] = []
    for block in blocks:
        letters = block.rstrip("0123456789")
        if found and letters != block and found[-1][0].rstrip("0123456789") == letters:
            found[-1].append(block)
        else:
            found.append([block])
    return [run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found]


def training() -> str:
    """Return every option of a training with its source, section by section."""
    lines: list[str] = []
    for name in dict.fromkeys(option.section for option in TRAINING if option.takes_part):
        lines += [f"### {name}", "", "| option | meaning | source |", "|---|---|---|"]
        lines += [training_row(option) for option in TRAINING if option.section == name]
        lines.append("")
    others = [without_meaning(option) for option in TRAINING if not option.takes_part]
    return "\n".join([*lines, "### Without effect, or not offered", "", "| sd-scripts' option | here |", "|---|---|", *others])


def training_row(option: TrainingOption) -> str:
    """Return an option of a training as a row of a table."""
    host = option.source.removeprefix("https://").removeprefix("http://")
    source = f"[{SOURCES.get(option.source, host)}]({option.source})" if host != option.source else option.source
    return f"{row(option)[:-1]}| {source} |"


SOURCES = {KOHYA: "sd-scripts", DATASETS: "sd-scripts, datasets"}
PARTS = {"training": training, "families": families, "algorithms": algorithms, "refused": refused, "guidance": guidance, "options": options}


def filled(text: str) -> str:
    """Return a page with its generated parts as they should be now."""
    return PART.sub(lambda found: found[1] + PARTS[found[2]]().rstrip() + "\n" + found[3], text)


def pages() -> list[Path]:
    """Return the pages that have generated parts."""
    return [page for page in sorted(DOCS.glob("*.md")) if PART.search(page.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
