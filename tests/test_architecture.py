"""The import rule, and what no file of ours may contain: read from the sources."""

import ast
import importlib.util
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib_lycoris.models.families import FAMILIES
from tests import import_circles

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lib_lycoris"
SOURCES = sorted(PACKAGE.rglob("*.py"))

LEAVES = {"algorithms", "models"}
FILES = LEAVES | {"networks"}
MAY_IMPORT = {  # part of the package -> parts it may import; `errors`, `atomic`, `plain_json` and itself always
    "errors": set(),
    "atomic": set(),
    "plain_json": set(),
    "algorithms": set(),
    "models": set(),
    "networks": LEAVES,
    "prompt": FILES,
    "patching": FILES,
    "tools": FILES | {"prompt"},  # a strength in a merge is what it is in a prompt
    "hosts": FILES | {"prompt", "patching", "tools.jobs", "tools.files", "demo"},
    "ui": FILES | {"tools", "prompt", "hosts.protocol"},
    "cli": FILES | {"tools", "hosts", "ui", "demo"},
    "__main__": {"cli"},
    "demo": set(),
    "training": FILES | {"patching", "tools", "hosts.embedded", "hosts.protocol", "demo"},
    "__init__": FILES | {"prompt", "patching", "tools"},
}
CORE_NEEDS = {"torch", "safetensors", "typing_extensions"}  # the last one comes with torch
FOREIGN = {  # part -> packages beside the standard library; None: whatever is in no other part's care
    "errors": set(),
    "atomic": set(),
    "plain_json": set(),
    "models": set(),
    "algorithms": {"torch", "typing_extensions"},
    "networks": CORE_NEEDS,
    "prompt": CORE_NEEDS,
    "patching": CORE_NEEDS,
    "tools": CORE_NEEDS | {"tqdm"},  # the bar of the command line that is built from the declarations
    "cli": CORE_NEEDS | {"tqdm"},
    "__main__": set(),
    "__init__": CORE_NEEDS,
    "demo": set(),
    "training": None,
    "hosts": None,
    "ui": None,
}
HOST_ONLY = {"modules", "modules_forge", "backend", "ldm_patched", "diffusers", "networks", "lora"}
TAKEN_NAMES = {"lycoris", "network", "networks", "lora", "launch", "modules", "backend", "utils"}


def part_of(path: Path) -> str:
    """Name the part of the package that a file belongs to: `networks` for lib_lycoris/networks/reading/reader.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Give (dots, dotted name) of every import of a file, wherever it stands; `from . import a` gives (1, "a")."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.level, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, alias.name) for alias in node.names)


def inner_targets(path: Path) -> Iterator[str]:
    """Give the modules of the package that a file imports, dotted, from the package's top: `hosts.protocol`."""
    folder = path.relative_to(PACKAGE).parts[:-1]
    for dots, name in imported(path):
        if dots:
            yield ".".join([*folder[: len(folder) - dots + 1], *name.split(".")])


def outer_targets(path: Path) -> Iterator[str]:
    yield from (name.split(".")[0] for dots, name in imported(path) if not dots)


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_parts_import_only_what_is_below_them(path: Path) -> None:
    part = part_of(path)
    allowed = MAY_IMPORT[part] | {"errors", "atomic", "plain_json", part}
    for target in inner_targets(path):
        names = {target.split(".")[0], ".".join(target.split(".")[:2])}
        package_itself = not (PACKAGE / target.split(".")[0]).is_dir() and not (PACKAGE / f"{target}.py").is_file()
        assert package_itself or names & allowed, f"{label(path)}: {part} may not import {target}"


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_inside_the_package_imports_are_relative_and_foreign_ones_stay_where_they_belong(path: Path) -> None:
    part = part_of(path)
    for name in set(outer_targets(path)) - sys.stdlib_module_names:
        assert name != "lib_lycoris", f"{label(path)}: use a relative import"
        assert name != "gradio" or part == "ui", f"{label(path)}: only ui imports gradio"
        assert name not in HOST_ONLY or part in ("hosts", "training"), f"{label(path)}: only hosts and training import {name}"
        foreign = FOREIGN[part]
        assert foreign is None or name in foreign, f"{label(path)}: {part} does not need {name}"


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_every_module_can_be_the_first_that_is_imported(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    assert import_circles.first(".".join(parts[:-1] if parts[-1] == "__init__" else parts)) is None


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_json_of_strangers_is_read_in_one_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    own = path.name == "plain_json.py" or "demo" in path.parts  # and the reader of headers has its own, for their speed
    assert own or ("json.loads(" not in text and "json.load(" not in text), f"{label(path)}: use plain_json.parse_json"


def test_no_top_level_name_collides_with_a_host() -> None:
    """The webui's extensions share `sys.modules`."""
    names = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    names |= {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert not names & TAKEN_NAMES


def test_scripts_hold_no_logic() -> None:
    for path in (ROOT / "scripts").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 60, f"{label(path)} has more than 60 lines"


def undone(path: Path) -> Iterator[int]:
    """Give the lines of a file that put work off: a note in a comment, or a raised NotImplementedError."""
    with tokenize.open(path) as source:
        for token in tokenize.generate_tokens(source.readline):
            if token.type == tokenize.COMMENT and any(mark in token.string for mark in ("TODO", "FIXME", "XXX")):
                yield token.start[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.unparse(node.exc):
            yield node.lineno


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "run.py"], ids=label)
def test_nothing_is_left_undone(path: Path) -> None:
    assert not list(undone(path))


def silent_handlers(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body):
            yield node.lineno


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "run.py"], ids=label)
def test_no_error_is_swallowed(path: Path) -> None:
    assert not list(silent_handlers(ast.parse(path.read_text(encoding="utf-8"))))


def compared_families(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            yield from (part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and part.value in FAMILIES)


ASKING = [path for path in SOURCES if part_of(path) not in {"models", "demo"}]


@pytest.mark.parametrize("path", ASKING, ids=label)
def test_only_models_know_one_family_from_another(path: Path) -> None:
    assert not list(compared_families(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("path", SOURCES, ids=label)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300, f"{label(path)} has more than 300 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 40, f"{label(path)}: {node.name} has {length} lines"


if importlib.util.find_spec("ruff"):  # in the new set; the old one tests the behaviour on old versions only

    def test_ruff_finds_nothing() -> None:
        done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_mypy_finds_nothing() -> None:
        done = subprocess.run([sys.executable, "-m", "mypy", "lib_lycoris"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
