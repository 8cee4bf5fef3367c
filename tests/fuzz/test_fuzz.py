"""Thousands of files that are wrong in one way or several: each works, or ends in one sentence that names the file; nothing else happens.

A case is made of its seed alone: ``python -m tests.fuzz.run SEED 1`` runs it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = 2_000
LONG = 200_000
A_PROCESS = 1_000  # cases


def start(first: int) -> subprocess.Popen[str]:
    """Begin with so many cases in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "tests.fuzz.run", str(first), str(A_PROCESS)]
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcomes(first: int, count: int) -> tuple[Counter[str], list[str]]:
    """Run cases in two processes at a time; return their counts by outcome and what was not clean."""
    counts: Counter[str] = Counter()
    unclean: list[str] = []
    waiting = list(range(first, first + count, A_PROCESS))
    while waiting:
        running, waiting = [start(seed) for seed in waiting[:2]], waiting[2:]
        for process in running:
            out, err = process.communicate()
            *bad, last = out.splitlines() or [""]
            assert process.returncode == 0, f"a child ended with {process.returncode}: {err[-2000:]}"
            counts.update(json.loads(last)["outcomes"])
            unclean += bad
    return counts, unclean


def test_two_thousand_hostile_files(capsys: pytest.CaptureFixture[str]) -> None:
    counts, unclean = outcomes(1, CASES)
    with capsys.disabled():
        print(f"\nfuzz, seeds 1 to {CASES}: {dict(counts)}")
    assert not unclean
    assert sum(counts.values()) == CASES and counts["worked"] > CASES // 5 and counts["sentence"] > CASES // 5


@pytest.mark.long
def test_many_hostile_files(tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> None:
    """200,000 cases; what is done is kept under ``LYCORIS_FUZZ_STATE``, so that a run that was stopped goes on."""
    state = Path(os.environ.get("LYCORIS_FUZZ_STATE") or tmp_path_factory.mktemp("fuzz") / "state.json")
    done = json.loads(state.read_text("utf-8")) if state.is_file() else {"next": 1_000_000, "counts": {}, "unclean": []}
    while done["next"] < 1_000_000 + LONG:
        counts, unclean = outcomes(done["next"], 2 * A_PROCESS)
        done = {
            "next": done["next"] + 2 * A_PROCESS,
            "counts": dict(Counter(done["counts"]) + counts),
            "unclean": done["unclean"] + unclean,
        }
        state.write_text(json.dumps(done), "utf-8")
    with capsys.disabled():
        print(f"\nfuzz, {LONG} cases: {done['counts']}")
    assert not done["unclean"]
