"""Peak memory of a piece of work: the highest anonymous RSS above the process after ``import torch``, sampled in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PERIOD = 1 / 100  # seconds between two samples
ROOT = Path(__file__).resolve().parents[2]


def anonymous() -> int:
    """Return the process' anonymous resident memory in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell anonymous memory")


def at_hand(size: int) -> None:
    """Have the system hold so many bytes of memory for whoever asks next.

    A virtual machine's memory goes back to its host seconds after it is freed, and a gigabyte takes up to two seconds to come again:
    whichever side was measured next would wait for that.
    """
    import torch

    torch.ones(size, dtype=torch.uint8)


@contextmanager
def watched() -> Iterator[SimpleNamespace]:
    """Give what holds, at the end, by how many ``bytes`` memory was above its level at the start."""
    peak, ending = SimpleNamespace(bytes=0), threading.Event()
    start = anonymous()

    def watch() -> None:
        while not ending.is_set():
            peak.bytes = max(peak.bytes, anonymous() - start)
            time.sleep(PERIOD)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ending.set()
        thread.join()


def peak_of(module: str, options: dict[str, Any]) -> int:
    """Run ``module.run(**options)`` in a new process; return its peak in bytes."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", module, json.dumps(options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure what the arguments say."""
    import torch  # noqa: F401 - the level that is measured from is with it

    with watched() as peak:
        import_module(sys.argv[1]).run(**json.loads(sys.argv[2]))
    print(peak.bytes)


if __name__ == "__main__":
    main()
