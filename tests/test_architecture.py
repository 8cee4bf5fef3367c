"""The import rule, and what no file of ours may contain: read from the sources; a test names all that break its rule."""

import ast
import importlib.util
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from lib_lycoris.algorithms import KINDS
from lib_lycoris.models.families import FAMILIES
from tests import import_circles, stats

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lib_lycoris"
SOURCES = sorted(PACKAGE.rglob("*.py"))

LEAVES = {"algorithms", "models"}
FILES = LEAVES | {"networks"}
MAY_IMPORT = {  # part of the package -> parts it may import; `errors`, `atomic`, `plain_json`, `records`, `wording` and itself always
    "errors": set(),
    "atomic": set(),
    "plain_json": set(),
    "records": set(),
    "wording": set(),
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
    "records": set(),
    "wording": set(),
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
ALGORITHM_NAMES = {base.__name__ for kind in KINDS for base in kind.__mro__ if base.__module__.startswith("lib_lycoris.algorithms.")} - {
    "Algorithm"
}
UNDONE = ("TODO", "FIXME", "XXX")
TAKEN_NAMES = {"lycoris", "network", "networks", "lora", "launch", "modules", "backend", "utils"}


def part_of(path: Path) -> str:
    """Name the part of the package that a file belongs to: `networks` for lib_lycoris/networks/reading/reader.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return everything in a file's syntax tree."""
    return tuple(ast.walk(import_circles.tree(path)))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Give (dots, dotted name) of every import of a file, wherever it stands; `from . import a` gives (1, "a")."""
    for node in nodes(path):
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


def forbidden_targets(path: Path) -> Iterator[str]:
    part = part_of(path)
    allowed = MAY_IMPORT[part] | {"errors", "atomic", "plain_json", "records", "wording", part}
    for target in inner_targets(path):
        names = {target.split(".")[0], ".".join(target.split(".")[:2])}
        if not names & allowed and ((PACKAGE / target.split(".")[0]).is_dir() or (PACKAGE / f"{target}.py").is_file()):
            yield f"{label(path)}: {part} may not import {target}"


def test_frozen_dataclasses_are_made_by_records() -> None:
    """The standard library's take three times as long to make, and cannot be bases of ours."""
    frozen = [path for path in SOURCES if "@dataclass(frozen=True" in path.read_text("utf-8") and path.name != "records.py"]
    others = [label(path) for path in frozen if "records import dataclass" not in path.read_text("utf-8")]
    assert not others, "import dataclass from lib_lycoris.records"


def test_parts_import_only_what_is_below_them() -> None:
    assert [found for path in SOURCES for found in forbidden_targets(path)] == []


def forbidden_packages(path: Path) -> Iterator[str]:
    part = part_of(path)
    foreign = FOREIGN[part]
    for name in set(outer_targets(path)) - sys.stdlib_module_names:
        if name == "lib_lycoris":
            yield f"{label(path)}: use a relative import"
        if name == "gradio" and part != "ui":
            yield f"{label(path)}: only ui imports gradio"
        if name in HOST_ONLY and part not in ("hosts", "training"):
            yield f"{label(path)}: only hosts and training import {name}"
        if foreign is not None and name not in foreign:
            yield f"{label(path)}: {part} does not need {name}"


def test_inside_the_package_imports_are_relative_and_foreign_ones_stay_where_they_belong() -> None:
    assert [found for path in SOURCES for found in forbidden_packages(path)] == []


def test_every_module_can_be_the_first_that_is_imported() -> None:
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in SOURCES]
    names = [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]
    assert {name: why for name in names if (why := import_circles.first(name)) is not None} == {}


def test_json_of_strangers_is_read_in_one_place() -> None:
    """But for the demo's own, and the reader of headers, which has its own for their speed. Use plain_json.parse_json."""
    others = [path for path in SOURCES if path.name != "plain_json.py" and "demo" not in path.parts]
    assert [label(path) for path in others if "json.loads(" in text_of(path) or "json.load(" in text_of(path)] == []


ONE_OF_EACH = {  # what is written down in one place -> the files that have it
    r"os\.replace\(|\.rename\(|mkstemp|NamedTemporaryFile": {  # a file that is written beside and renamed; streamed; a folder of them
        "atomic.py", "tools/files/output.py", "tools/files/checkpoints/folder.py",
    },
    r"int\.from_bytes\(\w+\[:8\]|unpack\(.<Q": {"networks/reading/header.py"},
    r"\bsafe_open\(": {"hosts/embedded/models.py"},  # whole models for diffusers, by its library
    r'"(bfloat16|BF16)"': {"networks/reading/dtypes.py", "networks/reading/unpickle.py", "tools/files/checkpoints/gguf.py",
                           "tools/files/checkpoints/scaled.py"},  # the table, and what other formats' codes stand for
}  # fmt: skip


def test_there_is_one_of_each() -> None:
    read = {str(path.relative_to(PACKAGE)): text_of(path) for path in SOURCES if part_of(path) != "training"}  # that opens whole models
    found = {pattern: {name for name, text in read.items() if re.search(pattern, text)} for pattern in ONE_OF_EACH}
    assert found == ONE_OF_EACH


def test_no_top_level_name_collides_with_a_host() -> None:
    """The webui's extensions share `sys.modules`."""
    names = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    names |= {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert not names & TAKEN_NAMES


def test_scripts_hold_no_logic() -> None:
    for path in (ROOT / "scripts").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 40, f"{label(path)} has more than 40 lines"


def undone(path: Path) -> Iterator[int]:
    """Give the lines of a file that put work off: a note in a comment, or a raised NotImplementedError."""
    if any(mark in text_of(path) for mark in UNDONE):
        for token in tokenize.generate_tokens(io.StringIO(text_of(path)).readline):
            if token.type == tokenize.COMMENT and any(mark in token.string for mark in UNDONE):
                yield token.start[0]
    for node in nodes(path):
        if isinstance(node, ast.Raise) and node.exc is not None and "NotImplementedError" in ast.unparse(node.exc):
            yield node.lineno


def test_nothing_is_left_undone() -> None:
    assert [f"{label(path)}:{line}" for path in (*SOURCES, ROOT / "run.py") for line in undone(path)] == []


def silent_handlers(path: Path) -> Iterator[int]:
    for node in nodes(path):
        if isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body):
            yield node.lineno


def test_no_error_is_swallowed() -> None:
    assert [f"{label(path)}:{line}" for path in (*SOURCES, ROOT / "run.py") for line in silent_handlers(path)] == []


TELLERS = {"hosts", "ui", "cli"}  # they tell the user; whatever is below them raises
THREAD_ENDS = {"lib_lycoris/tools/jobs/queue.py"}  # above a job's thread there is nobody to raise to: the job keeps the sentence


def kept_errors(path: Path) -> Iterator[int]:
    """Give the lines of the handlers that catch faults of ours too, and do not raise again."""
    for node in nodes(path):
        if isinstance(node, ast.ExceptHandler):
            names = {"BaseException"} if node.type is None else {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)}
            if names & {"Exception", "BaseException"} and not isinstance(node.body[-1], ast.Raise):
                yield node.lineno


def test_the_core_raises_what_it_catches() -> None:
    core = [path for path in SOURCES if part_of(path) not in TELLERS and label(path) not in THREAD_ENDS]
    assert [f"{label(path)}:{line}" for path in core for line in kept_errors(path)] == []


def compared_families(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Compare):
            yield from (part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and part.value in FAMILIES)


def test_only_models_know_one_family_from_another() -> None:
    asking = [path for path in SOURCES if part_of(path) not in {"models", "demo"}]
    assert [f"{label(path)}: {family}" for path in asking for family in compared_families(path)] == []


def asked_algorithms(path: Path) -> Iterator[str]:
    """Give the questions `isinstance(..., an algorithm)` of a file."""
    for node in nodes(path):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass"):
            named = [part.id if isinstance(part, ast.Name) else part.attr for part in ast.walk(node.args[1]) if hasattr(part, "ctx")
                     and isinstance(part, ast.Name | ast.Attribute)]  # fmt: skip
            yield from (f"{node.lineno}: {name}" for name in named if name in ALGORITHM_NAMES)


def test_only_algorithms_know_one_algorithm_from_another() -> None:
    """What an algorithm can do it says itself; that a value is one of them at all may be asked (`Algorithm`)."""
    asking = [path for path in SOURCES if part_of(path) != "algorithms"]
    assert [f"{label(path)}:{found}" for path in asking for found in asked_algorithms(path)] == []


def too_long(path: Path) -> Iterator[str]:
    if len(text_of(path).splitlines()) > 300:
        yield f"{label(path)} has more than 300 lines"
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > 40:
                yield f"{label(path)}: {node.name} has {length} lines"


def test_files_and_functions_are_short() -> None:
    assert [found for path in SOURCES for found in too_long(path)] == []


def test_everything_public_has_a_docstring() -> None:
    assert [f"{label(path)}: {name}" for path in SOURCES for name in stats.bare(text_of(path))] == []


def test_folders_are_small() -> None:
    """Of one level about 15 modules; a list with a file for each family, algorithm or part of it is as long as the list."""
    counts = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    large = {label(folder): count for folder, count in counts.items() if count > 15}
    assert large.keys() <= {"lib_lycoris/algorithms", "lib_lycoris/models/families"}


if importlib.util.find_spec("ruff"):  # in the new set; the old one tests the behaviour on old versions only

    def test_ruff_finds_nothing() -> None:
        done = subprocess.run([sys.executable, "-m", "ruff", "check", "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    @pytest.mark.slow
    def test_mypy_finds_nothing() -> None:
        done = subprocess.run([sys.executable, "-m", "mypy", "lib_lycoris"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
