"""Runs fuzz cases by their seeds, many in one process: ``python -m tests.fuzz.run FIRST COUNT``. One JSON line a case that is not clean."""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lib_lycoris.errors import LycorisError

from .mutations import Content, write_case
from .targets import TARGETS, Unclean

CORPUS = Path(__file__).parents[1] / "corpus"
SECONDS, MIB = 10, 256  # a case may take
GIB = 3  # of address space beyond what the process has when it begins
LONGEST = 1600  # characters of a sentence


class TooLong(BaseException):
    """A case takes longer than it may; no handler of an Exception may hold it."""


def content_of(case: Path) -> Content:
    """Return a file of the corpus, taken apart."""
    folder = case.parent
    with (folder / "network.safetensors").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(length)).get("__metadata__", {})
    config = folder / "adapter_config.json"
    return Content(load_file(folder / "network.safetensors"), metadata, json.loads(config.read_text()) if config.is_file() else None)


def sentence_of(error: LycorisError, path: Path) -> str | None:
    """Say what is wrong with a sentence; None for one that the user can be shown."""
    text = str(error)
    if not text or "\n" in text or len(text) > LONGEST or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in text):
        return f"no sentence to show: {text[:200]!r}"
    return None if path.stem in text or "adapter_config" in text else f"does not name the file: {text[:300]}"


def run_case(seed: int, cases: list[Path]) -> tuple[str, str]:
    """Return the outcome of one case, and what was said."""
    rng = random.Random(seed)
    case = rng.choice(cases)
    content, target = content_of(case), rng.choice(TARGETS)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = write_case(content, Path(folder), rng)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor: other programs may be busy
        try:
            target(path, case, rng)
            outcome, said = "worked", ""
        except LycorisError as error:
            wrong = sentence_of(error, path)
            outcome, said = ("unclean", wrong) if wrong else ("sentence", str(error))
        except TooLong:
            outcome, said = "unclean", f"longer than {SECONDS} s"
        except Unclean as error:
            outcome, said = "unclean", str(error)
        except Exception as error:  # noqa: BLE001 - what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome, said = "unclean", f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10
        if outcome != "unclean" and grown > MIB:
            outcome, said = "unclean", f"{grown} MiB of memory"
    return outcome, f"{target.__name__} on {case.parent.name}: {said}"


def _limit_memory() -> None:
    """Have an allocation that is far too large fail in this process, not on the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + (GIB << 30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(first: int, count: int) -> dict[str, Any]:
    """Run so many cases from a seed on; return the counts by outcome and the unclean ones."""

    def too_long(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGPROF, too_long)
    _limit_memory()
    torch.set_num_threads(1)
    cases = sorted(CORPUS.glob("*/*/case.json"))
    counts: Counter[str] = Counter()
    unclean = []
    began = time.monotonic()
    for seed in range(first, first + count):
        outcome, said = run_case(seed, cases)
        counts[outcome] += 1
        if outcome == "unclean":
            unclean.append({"seed": seed, "said": said})
            print(json.dumps(unclean[-1]), flush=True)
    return {"cases": count, "first": first, "outcomes": dict(counts), "unclean": unclean, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    print(json.dumps({k: v for k, v in main(int(sys.argv[1]), int(sys.argv[2])).items() if k != "unclean"}))
