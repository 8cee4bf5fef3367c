"""Finds or gets the Chromium of the browser tests: the system's, else Playwright's, else one of the system's package manager."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from run import Display, Trouble, ask, run_shown

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PACKAGES: dict[str, tuple[tuple[str, ...], ...]] = {  # package manager -> what gets Chromium and asks nothing
    "apt-get": (("apt-get", "update"), ("apt-get", "install", "-y", "--no-install-recommends", "chromium")),
    "dnf": (("dnf", "install", "-y", "chromium"),),
    "pacman": (("pacman", "-S", "--noconfirm", "chromium"),),
    "apk": (("apk", "add", "chromium"),),
}


def find() -> str | None:
    """Return a Chromium that starts, or None; nothing is installed."""
    return next((path for path in candidates() if starts(path)), None)


def get() -> str:
    """Return a Chromium that starts, installed if need be.

    Raises:
        Trouble: there is none, and it can be got neither from Playwright nor, without a password, from the system.
    """
    return find() or downloaded() or packaged() or _give_up()


def candidates() -> Iterator[str]:
    """Name the programs that may be a Chromium: those on the PATH, then Playwright's."""
    yield from filter(None, map(shutil.which, NAMES))
    path = ask(
        sys.executable, "-c", "from playwright.sync_api import sync_playwright as s\nwith s() as p: print(p.chromium.executable_path)"
    )
    if path and Path(path).exists():
        yield path


def starts(path: str) -> bool:
    """Tell whether it is more than a stub and finds its libraries; Windows' build has no output to tell by."""
    return os.name == "nt" or bool(ask(path, "--version"))


def downloaded() -> str | None:
    """Download Playwright's Chromium and return it if it starts."""
    print("The browser tests need Chromium, and none is here: downloading Playwright's, about 170 MB, into its cache folder.", flush=True)
    if run_shown(Display("Chromium of Playwright"), [sys.executable, "-m", "playwright", "install", "chromium"]) is not None:
        return None
    return find()


def packaged() -> str | None:
    """Install the system's Chromium, where that needs no password, and return it."""
    manager = next(filter(shutil.which, PACKAGES), None)
    before = as_root()
    if manager is None or before is None:
        return None
    print(f"Installing the package chromium with {manager}.", flush=True)
    os.environ.setdefault("DEBIAN_FRONTEND", "noninteractive")
    for command in PACKAGES[manager]:
        run_shown(Display(" ".join(command[:2])), [*before, *command])  # an update that fails in part may be enough
    return find()


def as_root() -> Sequence[str] | None:
    """Return what to put before a command so that it runs as root, or None where that asks for a password."""
    if not hasattr(os, "geteuid"):
        return None
    if os.geteuid() == 0:
        return ()
    return ("sudo", "-n") if ask("sudo", "-n", "id") else None


def _give_up() -> str:
    raise Trouble(
        "The browser tests need Chromium, and neither Playwright's download nor the system's package manager gave one: install the "
        'package `chromium`, or leave these tests out with `python3 run.py test -m "not browser"`.'
    )
