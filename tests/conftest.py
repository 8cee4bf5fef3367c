"""Options, and which tests run on which set of versions.

`new_set` tests, and files whose top level says `REQUIRES = ("module", ...)` with a module that is not installed, are not
collected on the *old* and the *middle* set. On the *new* set everything is collected, so a missing module is an error there.
"""

import ast
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def set_name() -> str:
    """Return the name of the set (run.py says it; by hand *new* and *old* are told apart by torch)."""
    major, minor = importlib.metadata.version("torch").split(".")[:2]
    return os.environ.get("LYCORIS_TEST_SET") or ("new" if (int(major), int(minor)) >= (2, 4) else "old")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sd-webui-lycoris")
    group.addoption("--long", action="store_true", help="run the tests that take minutes too")
    group.addoption("--webui", metavar="DIR", help="checkout of a real webui to test the extension in")
    group.addoption("--webui-python", metavar="PYTHON", help="the Python that this webui runs with")


def pytest_report_header() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "gradio", "diffusers"))
    return f"set: {set_name()} - Python {platform.python_version()}, {versions}"


def needs(path: Path) -> tuple[str, ...]:
    """Read a test file's REQUIRES without importing the file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "REQUIRES" for t in node.targets):
            return tuple(ast.literal_eval(node.value))
    return ()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if set_name() == "new" or collection_path.suffix != ".py":
        return None
    return True if any(importlib.util.find_spec(name) is None for name in needs(collection_path)) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unwanted = set() if set_name() == "new" else {"new_set"}
    unwanted |= set() if config.getoption("--long") else {"long"}
    unwanted |= set() if config.getoption("--webui") else {"webui"}
    left_out = [item for item in items if any(mark.name in unwanted for mark in item.iter_markers())]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session")
def webui_dir(request: pytest.FixtureRequest) -> Path:
    """The webui checkout named with --webui."""
    return Path(request.config.getoption("--webui")).resolve()


@pytest.fixture(scope="session")
def webui_python(request: pytest.FixtureRequest) -> str:
    """The Python named with --webui-python, else this one."""
    return request.config.getoption("--webui-python") or sys.executable


@pytest.fixture(scope="session")
def browser_path() -> str:
    """A Chromium: the system's, else Playwright's, which is downloaded if need be."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None) or next(downloaded_browsers(), None)
    if found is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
        found = next(downloaded_browsers(), None)
    assert found, "The browser tests need Chromium, and it could not be downloaded: install the package `chromium`."
    return found


def downloaded_browsers() -> Iterator[str]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        path = driver.chromium.executable_path
    if Path(path).exists():
        yield path
