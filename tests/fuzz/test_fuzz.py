"""Thousands of things that are wrong in one way or several: each works, or ends in one sentence; nothing else happens.

A case is made of its surface and seed alone: ``python -m tests.fuzz.run SURFACE SEED 1`` runs it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .parsers import PARSERS

ROOT = Path(__file__).resolve().parents[2]
# surface -> (cases in the suite, cases with --long, share of them that works at least)
SURFACES = {
    "files": (1_000, 95_000, 0.2),
    "prompts": (350, 50_000, 0.3),
    "options": (200, 15_000, 0.05),
    "checkpoints": (250, 20_000, 0.1),
    "requests": (120, 12_000, 0.05),
    "notes": (80, 8_000, 0.5),
}
FIRST_LONG = 1_000_000
A_PROCESS = 1_000  # cases


def command(surface: str, first: int, count: int) -> list[str]:
    """Return what runs so many cases in a process of its own."""
    return [sys.executable, "-m", "tests.fuzz.run", surface, str(first), str(count)]


def run(surface: str, first: int, count: int) -> tuple[Counter[str], list[str]]:
    """Run cases; return their counts by outcome and what was not clean."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command(surface, first, count), cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    *unclean, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"a child ended with {done.returncode}: {done.stderr[-2000:]}"
    return Counter(json.loads(last)["outcomes"]), unclean


@pytest.mark.parametrize("surface", SURFACES)
def test_what_is_hostile_works_or_is_one_sentence(surface: str, capsys: pytest.CaptureFixture[str]) -> None:
    count, _, works = SURFACES[surface]
    counts, unclean = run(surface, 1, count)
    with capsys.disabled():
        print(f"\nfuzz {surface}, seeds 1 to {count}: {dict(counts)}")
    assert not unclean
    assert sum(counts.values()) == count and counts["worked"] > count * works
    assert counts["sentence"] > count / 5 or surface == "notes"  # a small file that is broken counts as none


@pytest.mark.parametrize("name", PARSERS)
def test_parsers_are_clean_on_what_guided_inputs_begin_as(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests/fuzz/guided.py` goes on from here, a million times; each start is cut at every byte too."""
    monkeypatch.chdir(tmp_path)
    parser, starts, words = PARSERS[name]
    for data in (*starts, *(word.encode() for word in words)):
        for end in range(len(data) + 1):
            parser(data[:end])


@pytest.mark.long
@pytest.mark.timeout(0)
def test_many_hostile_things(tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> None:
    """200,000 cases; what is done is kept under ``LYCORIS_FUZZ_STATE``, so that a run that was stopped goes on."""
    state = Path(os.environ.get("LYCORIS_FUZZ_STATE") or tmp_path_factory.mktemp("fuzz") / "state.json")
    done = json.loads(state.read_text("utf-8")) if state.is_file() else {}
    for surface, (_, count, _) in SURFACES.items():
        at = done.setdefault(surface, {"next": FIRST_LONG, "counts": {}, "unclean": []})
        while at["next"] < FIRST_LONG + count:
            counts, unclean = run(surface, at["next"], A_PROCESS)
            at.update(next=at["next"] + A_PROCESS, counts=dict(Counter(at["counts"]) + counts), unclean=at["unclean"] + unclean)
            state.write_text(json.dumps(done), "utf-8")
        with capsys.disabled():
            print(f"\nfuzz {surface}, {count} cases from seed {FIRST_LONG} on: {at['counts']}")
    assert not [case for at in done.values() for case in at["unclean"]]


FENCED = """
import os, sys, tempfile
from pathlib import Path
from tests.fuzz.fence import OutsideTheFence, fence
outside, inside = Path(sys.argv[1]), Path(sys.argv[2])
fence(inside)
os.chdir(inside)
Path("a").write_text("1")
os.replace("a", "b")
Path("l").symlink_to(outside)
held = 0
for act in (
    lambda: outside.write_text("2"), lambda: open(outside, "ab"), lambda: os.open(outside, os.O_RDWR), lambda: outside.unlink(),
    lambda: os.replace("b", outside), lambda: Path("l").write_text("3"), lambda: os.mkdir("../d"), lambda: os.system("true"),
):
    try:
        act()
    except OutsideTheFence:
        held += 1
print(held)
"""


def test_no_case_can_write_outside_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").write_text("mine")
    words = [sys.executable, "-c", FENCED, str(tmp_path / "out"), str(tmp_path / "in")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "8\n", done.stderr
    assert (tmp_path / "out").read_text() == "mine" and sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
