"""The documentation holds: links lead somewhere, commands are ones that we have, and what follows from the code follows from it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib_lycoris.cli import command_parser
from lib_lycoris.tools.registry import VERBS
from lib_lycoris.tools.training.command import given as training_options
from run import NEW, suite_options
from tests.docs.generate import DOCS, filled, pages

ROOT = DOCS.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
LONGEST_README = 130  # lines


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words behind `run.py` of each command in a block of a page."""
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("python3 run.py"):
                yield shlex.split(line, comments=True)[2:]


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), f"{label(page)} links to {target}, which is not there"
        assert not anchor or anchor in anchors(found), f"{label(page)} links to {target}, and {label(found)} has no such heading"


def test_every_page_is_in_the_index_and_every_image_on_a_page() -> None:
    linked = {target for page in PAGES for target in LINK.findall(page.read_text(encoding="utf-8"))}
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= set(LINK.findall((DOCS / "README.md").read_text(encoding="utf-8")))
    shown = {Path(target).name for target in linked}
    assert {image.name for image in (DOCS / "images").iterdir()} <= shown


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=label)
def test_commands_are_ones_that_we_have(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(page):
        if not words or words[0] in ("bench", "dev") or words[-1] == "--help":
            continue
        if words[0] == "train":
            training_options(words[1:])
            continue
        parser = suite_options() if words[0] == "test" else command_parser()[0]
        try:
            given = words[1:] if words[0] == "test" else words if not words[0].startswith("-") else ["app", *words]
            _, rest = parser.parse_known_args(given)
        except SystemExit:
            pytest.fail(f"{label(page)}: run.py {' '.join(words)}: {capsys.readouterr().err}")
        assert words[0] == "test" or not rest, f"{label(page)}: run.py {' '.join(words)}"


@pytest.mark.parametrize("page", pages(), ids=label)
def test_generated_parts_are_what_the_code_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, f"{label(page)} is behind the code: run `python -m tests.docs.generate`"


def test_every_verb_has_its_place() -> None:
    tools = (DOCS / "tools.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if not re.search(rf"\b{verb}\b", tools)] == []


def test_tests_that_are_named_are_there() -> None:
    for page in set(PAGES) - {ROOT / "CONTRIBUTING.md"}:  # its examples name files that they make
        for file, _, name in re.findall(r"`(tests/[\w/]+\.py)(::(test_\w+))?`", page.read_text(encoding="utf-8")):
            path = ROOT / file
            assert path.is_file(), f"{label(page)} names {file}, which is not there"
            assert not name or f"def {name}(" in path.read_text(encoding="utf-8"), f"{label(page)} names {file}::{name}, which is not there"


def test_the_public_checks_use_what_we_support() -> None:
    workflow = (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    listed = re.search(r"python: \[(.*)\]", workflow)
    assert listed is not None
    numbers = re.findall(r"[\d.]+", listed[1])
    assert len(numbers) == 3 and set(numbers) <= set(NEW.pythons)
    for command in re.findall(r"- run: python run.py test (.*)", workflow):
        given = shlex.split(re.sub(r"\$\{\{.*?\}\}", "--quick", command))
        assert suite_options().parse_known_args(given)[1] == ["--color=no"]
    pins = set(re.findall(r"ruff==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")))
    assert pins == set(re.findall(r"^ruff==[\d.]+", NEW.constraints.read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("verb", ["app", "generate", "inspect"])
def test_every_option_of_the_other_verbs_is_on_the_page(verb: str) -> None:
    _, section = re.split(rf"^## {verb}$", (DOCS / "cli.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    section = section.partition("\n## ")[0]
    own = command_parser()[1][verb]._actions
    flags = [flag for action in own for flag in action.option_strings if flag.startswith("--") and flag != "--help"]
    assert [flag for flag in flags if f"`{flag}" not in section] == []
