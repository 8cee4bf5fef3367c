"""Every tool, killed, without room, twice at once, with inputs that change under it: some moments here, 200 of each with --long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.tiny_files import prepared

ROOT = Path(__file__).resolve().parents[2]
LONG = 200
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, signals and limits are POSIX")


def moments(first: int, count: int, *around: str, **environment: str) -> list[dict[str, object]]:
    """Run so many moments of each tool and kind in a process of its own; return what came of them."""
    words = [*around, sys.executable, "-m", "tests.fuzz.moments", str(first), str(count)]
    more = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(words, cwd=ROOT, env=more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def tell(capsys: pytest.CaptureFixture[str], told: list[dict[str, object]]) -> None:
    with capsys.disabled():
        for kind in dict.fromkeys(str(one["kind"]) for one in told):
            print(f"\nmoments, {kind}:", {one["tool"]: one["outcomes"] for one in told if one["kind"] == kind}, end="")


@pytest.mark.slow
def test_some_moments_of_every_tool(capsys: pytest.CaptureFixture[str]) -> None:
    told = moments(1, 3)
    assert len(told) == 40
    tell(capsys, told)


@pytest.mark.long
@pytest.mark.timeout(0)
def test_many_moments_of_every_tool(capsys: pytest.CaptureFixture[str]) -> None:
    tell(capsys, moments(1000, LONG))


@pytest.mark.slow
def test_a_small_disk_that_is_full(tmp_path: Path) -> None:
    """A tool on a tmpfs with too little room, in a mount namespace of its own; where mounting is not allowed RLIMIT_FSIZE stands in."""
    allowed = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    pages = sum(-(-len(data) // 4096) for data in prepared(tmp_path).values()) + 3
    script = f'mount -t tmpfs -o size={4 * pages}k none "$0" && exec "$@"'
    around = ["unshare", "-m", "sh", "-c", script, str(tmp_path)] if allowed else []
    words = [*around, sys.executable, "-c", SMALL_DISK, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("refused: the disk is full") == 2, done.stdout


SMALL_DISK = """
import os, resource, signal, sys
from pathlib import Path
from lib_lycoris.errors import LycorisError
from lib_lycoris.tools import TOOLS
from tests.fuzz import moments
folder = Path(sys.argv[1])
inputs = moments.prepared(folder)
if os.statvfs(folder).f_blocks * os.statvfs(folder).f_frsize > 10**6:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
for check_ahead in (True, False):
    if not check_ahead:  # as when another program takes the room meanwhile
        from lib_lycoris.tools.files import output
        from lib_lycoris.tools.merge import into_checkpoint
        output.require_space = into_checkpoint.require_space = lambda *_: None
    try:
        TOOLS["merge"].run(**moments.options("merge", folder))
        print("worked")
    except LycorisError as error:
        print("refused:", error)
    assert not moments.outputs(folder) and not list(folder.glob(".*.part")), os.listdir(folder)
    assert all((folder / name).read_bytes() == data for name, data in inputs.items())
"""
