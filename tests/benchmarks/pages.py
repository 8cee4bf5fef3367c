"""What the pages weigh and take: bytes of the app's page, the time until it can be used, what the tab adds to a webui's start.

The start is what one process takes to import what the extension's script imports, and to make the tab, after torch and gradio; the page
is opened in Chromium as a visitor opens it, again and again: the second visit has Gradio's own files already.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import gradio

from tests.browser import chromium

from .loader_timing import Result, of

START_LIMIT, READY_LIMIT = 0.3, 1.5  # seconds
MODULES_LIMIT = 380
PAGE_LIMIT, NEW_PAGE_LIMIT = 350_000, 30_000  # bytes: of the pages of the first edition, of each that came since
NEW_PAGES = ("lyco_tab_networks", "lyco_tab_train", "lyco_tab_results")
PROGRAM = """
import json, sys, tempfile, time
from pathlib import Path
import torch, gradio, safetensors.torch
begun = time.process_time()
from lib_lycoris.ui.uncollected import uncollected
with uncollected():
    from lib_lycoris.hosts.library.cards import LibraryCards
    from lib_lycoris.hosts.webui import register
    from lib_lycoris.hosts.webui.adapters import a1111
    from lib_lycoris.tools.examine.inspect import inspect
    from lib_lycoris.tools.jobs.queue import Jobs
    from lib_lycoris.tools.jobs.service import JobService
    from lib_lycoris.ui.context import PageContext
    from lib_lycoris.ui.pages import HostTab
    from lib_lycoris.tools import TOOLS
imported = time.process_time() - begun
modules = sum(name.startswith("lib_lycoris") for name in sys.modules)
from lib_lycoris.hosts.embedded.files import FolderStore
from lib_lycoris.hosts.library.library import Library
folder = Path(tempfile.mkdtemp())
tab = HostTab(PageContext(FolderStore(Library([folder]), folder, folder), Jobs(), send="txt2img"))
with gradio.Blocks() as host, gradio.Tab("LyCORIS"):
    begun = time.process_time()
    tab.render()
    made = time.process_time() - begun
print(json.dumps({"imported": imported, "made": made, "modules": modules}))
"""


def started() -> dict[str, float]:
    """Return what one start of a webui takes, in processor time."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment())
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def environment() -> dict[str, str]:
    """Return the environment of a process that keeps what it compiled, as a webui's does."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def start(rounds: int) -> Iterator[Result]:
    """Yield the start's figures: the shortest of some, what disturbs them only adds; the first compiles and is left out."""
    runs = [started() for _ in range(rounds + 1)][1:]
    for name in ("imported", "made"):
        yield of(name, [min(run[name] for run in runs)], unit="s")
    yield of("start", [min(run["imported"] + run["made"] for run in runs)], START_LIMIT, unit="s")
    yield of("modules", [runs[0]["modules"]], MODULES_LIMIT)


def pages(rounds: int) -> Iterator[Result]:
    """Yield the page's bytes and the time until it can be used."""
    from tests.ui.test_app import running_app

    with tempfile.TemporaryDirectory(prefix="lycoris-bench-") as name, running_app(Path(name)) as address:
        with urlopen(f"{address}/config", timeout=60) as answer:
            weight, new = weights(json.loads(answer.read()))
        yield of("page", [weight - sum(new.values())], PAGE_LIMIT, unit="bytes")
        for page, size in new.items():
            yield of(page, [size], NEW_PAGE_LIMIT, unit="bytes")
        yield of("ready", [min(ready(address, rounds))], READY_LIMIT, unit="s")


def weights(config: dict[str, Any]) -> tuple[int, dict[str, int]]:
    """Return the bytes of a page's description, and those that each new page's components and events have of it."""
    new = dict.fromkeys(NEW_PAGES, 0)
    owner = _owners(config)
    for part in config["components"]:
        if owner.get(part["id"]) in new:
            new[owner[part["id"]]] += _bytes(part)
    for event in config["dependencies"]:
        first = next((part for part in (*event["inputs"], *event["outputs"]) if part in owner), None)
        if first is not None and owner[first] in new:
            new[owner[first]] += _bytes(event)
    return _bytes(config), new


def _owners(config: dict[str, Any]) -> dict[int, str]:
    """Return the page that each component lies on, by the id of its tab."""
    ids = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
    found: dict[int, str] = {}

    def walk(node: dict[str, Any], page: str) -> None:
        name = ids.get(node["id"])
        page = page or (name if name and name.startswith("lyco_tab_") else "")
        found[node["id"]] = page
        for child in node.get("children") or ():
            walk(child, page)

    walk(config["layout"], "")
    return found


def _bytes(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def ready(address: str, rounds: int) -> list[float]:
    """Return the seconds from the request to a page that takes input, of each visit but the first."""
    from playwright.sync_api import sync_playwright

    from tests.ui.test_app import FLAGS, READY

    found = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium.get(), headless=True, args=FLAGS)
        page = browser.new_page(viewport={"width": 1366, "height": 900})
        for _ in range(rounds + 1):
            begun = time.monotonic()
            page.goto(address, wait_until="domcontentloaded")
            page.wait_for_selector(READY, state="attached", timeout=60_000)
            found.append(time.monotonic() - begun)
        browser.close()
    return found[1:]


def main(arguments: list[str] | None = None) -> int:
    """Run the measurements; return 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed; the shortest time counts")
    given = parser.parse_args(arguments)
    print(f"gradio {gradio.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    within = True
    for stage in (start(given.rounds), pages(given.rounds)):
        for result in stage:
            within = within and result.within
            print(result.line, flush=True)
    return 0 if within else 1


if __name__ == "__main__":
    raise SystemExit(main())
