"""What is hostile and small, in each way in: in the suite it may take ten seconds and 256 MB; `bench hostile` holds it to one and 64."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.hostile import LARGEST, SURFACES, judged
from tests.benchmarks.memory import ROOT

# one thing that is done in each way in: the others begin with the same reading
USES = ("load", "prompt", "infotext", "presets", "resize", "undo", "check", "card", "start", "read", "post")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="forks, and memory as Linux tells it")]


@pytest.mark.parametrize("surface", ["fields", "hashes", "card", "undo"])  # the others take minutes: `bench hostile`
def test_what_is_hostile_and_small_is_read_or_refused_soon(surface: str, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    words = [sys.executable, "-m", "tests.benchmarks.hostile", "--only", surface, "--uses", *USES, "--json", str(told)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.is_file(), done.stderr[-3000:]
    found = json.loads(told.read_text())["results"]
    assert len(found) == 5 * len(SURFACES[surface].kinds)
    for one in found:
        assert one["value"] <= LARGEST.get(one["name"].rpartition(", ")[2], one["limit"]), (one, done.stdout)


def test_a_limit_that_is_not_kept_is_told() -> None:
    found = {"name": "file: x", "seconds": 1.5, "mb": 3.0, "work_seconds": 0.0, "work_mb": 0.0, "unclean": ["load: KeyError"]}
    assert [one["name"] for one in judged(found) if not one["within"]] == ["file: x, seconds", "file: x, unclean"]


def test_every_use_that_the_suite_runs_is_there() -> None:
    assert set(USES) <= {name for surface in SURFACES.values() for name in surface.uses | surface.work}
    assert all(set(USES) & (surface.uses | surface.work).keys() for surface in SURFACES.values())
