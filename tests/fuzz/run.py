"""Runs fuzz cases by their seeds, many in one process: ``python -m tests.fuzz.run SURFACE FIRST COUNT``.

One JSON line a case that is not clean, and one with the counts at the end. A case is made of its surface and seed alone.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from lib_lycoris.errors import LycorisError

from .fence import OutsideTheFence, fence
from .judge import Unclean, wrong_with

SECONDS, MIB = 10, 256  # a case may take
GIB = 3  # of address space beyond what the process has when it begins
Target = Callable[[random.Random, Path], None]


class TooLong(BaseException):
    """A case takes longer than it may; no handler of an Exception may hold it."""


def run_case(seed: int, targets: Sequence[Target]) -> tuple[str, str]:
    """Return the outcome of one case, and what was said."""
    rng = random.Random(seed)
    target = rng.choice(targets)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor: other programs may be busy
        try:
            target(rng, Path(folder))
            outcome, said = "worked", ""
        except LycorisError as error:
            wrong = wrong_with(str(error))
            outcome, said = ("unclean", wrong) if wrong else ("sentence", str(error))
        except TooLong:
            outcome, said = "unclean", f"longer than {SECONDS} s"
        except (Unclean, OutsideTheFence) as error:
            outcome, said = "unclean", str(error)
        except Exception as error:  # noqa: BLE001 - what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome, said = "unclean", f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.chdir(tempfile.gettempdir())
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10
        if outcome != "unclean" and grown > MIB:
            outcome, said = "unclean", f"{grown} MiB of memory"
    return outcome, f"{target.__name__}: {said}"


def limit_memory() -> None:
    """Have an allocation that is far too large fail in this process, not on the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + (GIB << 30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(surface: str, first: int, count: int) -> dict[str, Any]:
    """Run so many cases of a surface from a seed on; print the unclean ones, return the counts by outcome."""

    def too_long(*_: Any) -> None:
        raise TooLong

    targets = import_module(f".{surface}", __package__).TARGETS
    signal.signal(signal.SIGPROF, too_long)
    limit_memory()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lycoris-fuzz-") as folder:
        tempfile.tempdir = folder
        fence(Path(folder))
        for seed in range(first, first + count):
            outcome, said = run_case(seed, targets)
            counts[outcome] += 1
            if outcome == "unclean":
                print(json.dumps({"surface": surface, "seed": seed, "said": said}), flush=True)
        os.chdir("/")
    return {"surface": surface, "first": first, "cases": count, "outcomes": dict(counts), "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
