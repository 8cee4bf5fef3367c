"""Getting a browser: which is taken, what is installed and said, on a machine that lacks one. Nothing is downloaded here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from run import Trouble
from tests.browser import chromium


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, of a machine with a shell and nothing else, where Playwright has no Chromium."""
    (tmp_path / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", program(tmp_path / "python", "exit 1"))
    return tmp_path


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def as_user(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: number)


def test_a_stub_is_passed_over_and_the_systems_is_taken_without_installing(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program(bare / "chromium", "echo 'install the snap first' >&2; exit 1")
    assert chromium.find() is None
    good = program(bare / "google-chrome", "echo Chrome 1.0")
    assert chromium.get() == good
    assert capsys.readouterr().out == ""


def test_playwright_comes_before_the_system(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = f"if [ $2 = playwright ]; then printf '#!/bin/sh\\necho 1' > {bare}/made; /bin/chmod +x {bare}/made; else echo {bare}/made; fi"
    program(bare / "python", made)
    assert chromium.get() == str(bare / "made")
    said = capsys.readouterr().out
    assert said.startswith("The browser tests need Chromium, and none is here: downloading Playwright's, about 170 MB")
    assert "Chromium of Playwright: done" in said


@pytest.mark.parametrize("manager", chromium.PACKAGES)
def test_the_systems_package_manager_installs_it(
    bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], manager: str
) -> None:
    as_user(monkeypatch, 0)
    last = chromium.PACKAGES[manager][-1][1]
    made = f"printf '#!/bin/sh\\necho 1' > {bare}/chromium; /bin/chmod +x {bare}/chromium"
    program(bare / manager, f"echo $* >> {bare}/calls; if [ $1 = {last} ]; then {made}; fi")
    assert chromium.get() == str(bare / "chromium")
    assert (bare / "calls").read_text().splitlines() == [" ".join(command[1:]) for command in chromium.PACKAGES[manager]]
    assert f"Installing the package chromium with {manager}." in capsys.readouterr().out


def test_a_password_is_never_asked_for(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(monkeypatch, 1000)
    program(bare / "apt-get", f"echo ran >> {bare}/calls")
    program(bare / "sudo", 'if [ "$1" = -n ]; then exit 1; fi; sleep 60')
    with pytest.raises(Trouble, match="install the package `chromium`"):
        chromium.get()
    assert not (bare / "calls").exists()
    program(bare / "sudo", 'shift; if [ "$1" = id ]; then echo 0; else exec "$@"; fi')
    with pytest.raises(Trouble, match="install the package `chromium`"):
        chromium.get()
    assert (bare / "calls").read_text() == "ran\nran\n"


def test_without_a_browser_the_run_ends_before_the_first_test(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import tests.conftest as ours\nfrom tests.browser import chromium\n"
        "chromium.find = chromium.downloaded = chromium.packaged = lambda: None\n"
        "pytest_collection_finish = ours.pytest_collection_finish\n",
        encoding="utf-8",
    )
    tests = "import pytest\n@pytest.mark.browser\ndef test_it(): pass\ndef test_other(): pass\n"
    (tmp_path / "test_it.py").write_text(tests, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir=.", "."]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: The browser tests need Chromium" in done.stderr
    assert "passed" not in done.stdout
