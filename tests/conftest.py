"""Options, and which tests run on which set of versions.

`new_set` tests, and files whose top level says `REQUIRES = ("module", ...)` with a module that is not installed, are not
collected on the *old* and the *middle* set. On the *new* set everything is collected, so a missing module is an error there.
"""

import ast
import gc
import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from run import Trouble
from tests.browser import chromium
from tests.webui.kinds import recognise
from tests.webui.neighbours import find

ROOT = Path(__file__).resolve().parent.parent
QUICK_SECONDS = 60
STARTED = pytest.StashKey[float]()
QUICK_MARKS = {"slow", "browser", "corpus", "oracle"}  # tests of these kinds inside of other files
QUICK_LEAVES_OUT = (  # corpora, oracles, browser and app; and by measurement: what takes longest for what it adds on a change not about it
    "algorithms/test_oracles.py",
    "benchmarks",
    "browser",
    "corpus",
    "development/test_family.py",  # asks diffusers' own classes, which take seconds to import
    "fuzz",
    "hosts/test_demo.py",
    "hosts/test_folders.py",  # of the app
    "hosts/test_generate.py",
    "hosts/test_pipelines.py",  # diffusers' own pipelines
    "hosts/test_prompts.py",
    "models/test_sdxl_likes.py",  # diffusers' own UNet
    "patching/test_devices.py",
    "patching/test_families.py",  # diffusers' own transformers
    "patching/test_half_precision.py",  # whole models over many steps
    "patching/test_malformed_modules.py",  # a generated corpus of damaged modules
    "patching/test_threads.py",
    "patching/test_unet.py",
    "tools/test_families.py",
    "tools/test_kept_settings.py",  # every tool with every algorithm's settings
    "tools/test_peft_config.py",  # asks PEFT
    "tools/test_plans.py",  # every tool is run to see whether its plan was true
    "training/test_refusals.py",  # starts a training to see it refused
    "training/test_optimisation.py",  # whole trainings, as the next four
    "training/test_safeguards.py",
    "training/test_training.py",
    "training/test_transformers.py",
    "training/test_unets.py",
    "ui",
    "webui",
)


@cache
def set_name() -> str:
    """Return the name of the set (run.py says it; by hand *new* and *old* are told apart by torch)."""
    major, minor = importlib.metadata.version("torch").split(".")[:2]
    return os.environ.get("LYCORIS_TEST_SET") or ("new" if (int(major), int(minor)) >= (2, 4) else "old")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sd-webui-lycoris")
    group.addoption("--quick", action="store_true", help="leave out the corpora, the oracles, the browser, the app and tests marked slow")
    group.addoption("--long", action="store_true", help="run the tests that take minutes too")
    group.addoption("--webui", metavar="DIR", help="checkout of a real webui to test the extension in")
    group.addoption("--webui-python", metavar="PYTHON", help="the Python that this webui runs with")
    group.addoption("--webui-beside", metavar="FOLDER", help="checkouts of other people's extensions to test beside this one there")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STARTED] = time.monotonic()
    in_several = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if in_several and not config.getoption("--quick") and config.option.markexpr != "not browser":
        get_browser(config)  # here, before the processes start: they would get it all at once


def pytest_report_header() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "gradio", "diffusers"))
    return f"set: {set_name()} - Python {platform.python_version()}, {versions}"


def needs(path: Path) -> tuple[str, ...]:
    """Read a test file's REQUIRES without importing the file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "REQUIRES" for t in node.targets):
            return tuple(ast.literal_eval(node.value))
    return ()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.getoption("--quick") and any(collection_path == ROOT / "tests" / name for name in QUICK_LEAVES_OUT):
        return True
    if set_name() == "new" or collection_path.suffix != ".py":
        return None
    return True if any(importlib.util.find_spec(name) is None for name in needs(collection_path)) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = set() if set_name() == "new" else {"new_set"}
    unwanted |= set() if config.getoption("--long") else {"long"}
    unwanted |= QUICK_MARKS if config.getoption("--quick") else set()
    unwanted |= set() if config.getoption("--webui") else {"webui"}
    left_out = [item for item in items if any(mark.name in unwanted for mark in item.iter_markers())]
    if folder := config.getoption("--webui"):
        kind = recognise(Path(folder)).name
        left_out += [item for item in items if (mark := item.get_closest_marker("only_in")) and kind not in mark.args]
    beside = config.getoption("--webui-beside")
    there = find(Path(beside)) if beside else {}
    left_out += [item for item in items if (mark := item.get_closest_marker("beside")) and mark.args[0] not in there]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session")
def webui_dir(request: pytest.FixtureRequest) -> Path:
    """The webui checkout named with --webui."""
    return Path(request.config.getoption("--webui")).resolve()


@pytest.fixture(scope="session")
def webui_beside(request: pytest.FixtureRequest) -> Path:
    """The folder named with --webui-beside."""
    return Path(request.config.getoption("--webui-beside")).resolve()


@pytest.fixture(scope="session")
def webui_python(request: pytest.FixtureRequest) -> str:
    """The Python named with --webui-python, else this one."""
    return request.config.getoption("--webui-python") or sys.executable


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say when --quick is quick no more, and where the time went."""
    calls = [report for reports in terminalreporter.stats.values() for report in reports if isinstance(report, pytest.TestReport)]
    if not config.getoption("--quick") or time.monotonic() - config.stash[STARTED] <= QUICK_SECONDS:
        return
    by_file: dict[str, float] = {}
    for report in calls:
        file = report.nodeid.split("::")[0]
        by_file[file] = by_file.get(file, 0.0) + report.duration
    longest = sorted(by_file.items(), key=lambda item: -item[1])[:5]
    listed = ", ".join(f"{file} {seconds:.0f} s" for file, seconds in longest)
    terminalreporter.line(f"--quick took more than {QUICK_SECONDS} s; mark what is slow with pytest.mark.slow. Longest: {listed}")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Keep the modules and tests, which stay to the end, out of each garbage collection: a full one would look at all of them again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Get a browser before the first test, if one of the tests needs it: a run must not end in errors after minutes."""
    if session.config.option.collectonly or not any(item.get_closest_marker("browser") for item in session.items):
        return
    get_browser(session.config)


def get_browser(config: pytest.Config) -> None:
    """Find a browser or install one, and say so on the terminal. Raises pytest.UsageError, which ends the run."""
    capture = config.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            chromium.get()
    except Trouble as trouble:
        raise pytest.UsageError(str(trouble)) from None


@pytest.fixture(scope="session")
def browser_path() -> str:
    """A Chromium that starts."""
    path = chromium.find()
    assert path is not None
    return path
