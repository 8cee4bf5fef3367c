"""The standalone app under load: every request is answered, memory stays, base weights stay, nothing is half written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuzz import soak

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.new_set, pytest.mark.slow]  # Gradio 3 has another queue


@contextmanager
def app(data: Path) -> Iterator[tuple[str, int]]:
    """Start the app; give its address and process."""
    log = data / "log"
    words = [
        sys.executable,
        "-m",
        "lib_lycoris",
        "app",
        "--no-browser",
        "--port",
        "7970",
        "--device",
        "cpu",
        "--data-dir",
        str(data / "data"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        yield _ready(log, process), process.pid
    finally:
        process.terminate()
        assert process.wait(60) == 0, log.read_text()


def _ready(log: Path, process: subprocess.Popen[bytes]) -> str:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if found:
            assert urllib.request.urlopen(f"{found[0]}/docs", timeout=5).status == 200  # ours, the last that is added
            return found[0]
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_a_hundred_requests_of_four_clients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with app(tmp_path) as (address, process):
        told = soak.main(address, tmp_path / "data", process, 116, 1)
        log = (tmp_path / "log").read_text()
    with capsys.disabled():
        print(f"\nsoak: {told}")
    assert told["answered"] == 116 and told["wrong"] == [] and told["outcomes"]["image"] > 50
    assert "Traceback" not in log, log[-3000:]


@pytest.mark.long
@pytest.mark.timeout(0)
def test_thousands_of_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3,800 requests: 3,000 images, 380 jobs, 380 faults, about."""
    with app(tmp_path) as (address, process):
        told = soak.main(address, tmp_path / "data", process, 3_812, 8)
    with capsys.disabled():
        print(f"\nsoak: {told}")
    assert told["answered"] == 3_812 and told["wrong"] == [] and told["mib_per_100_requests"] < 1
