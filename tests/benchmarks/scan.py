"""Thousands of network files: how long until their names are known, with and without an index, until lists are complete, and an import.

``python3 -m tests.benchmarks.scan [--count N] [--json FILE]``. Every measurement runs in a new process, as a start does; the files lie in
the system's cache, as after they were written. The best of a few runs counts: whatever else the machine does only adds to it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COUNT = 2000
RUNS = 5
LIMITS = {
    "import_ms": 60.0, "import_names_ms": 60.0, "scan_cold_s": 1.5, "scan_warm_s": 0.1, "scan_first_tag_s": 0.1, "scan_lists_s": 30.0,
    "scan_lists_warm_s": 0.5,
}  # fmt: skip

START = """
import gc, sys, time
from pathlib import Path
import torch
from lib_lycoris.hosts.library.library import Library
gc.collect()  # what torch's import left is not part of a scan
folder, data, what = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
start = time.perf_counter()
library = Library([folder], data)
library.scan(describe=what == "lists")
if what == "tag":
    library.find("style-0007")
else:
    library.find("Style number 7")
if what == "lists":
    library.wait()
    assert all(library.facts(file.path).described for file in library.files)
print(time.perf_counter() - start, len(library.files))
library.wait()
"""
IMPORT = """
import gc, time
{before}
gc.collect()  # as above
start = time.perf_counter()
import lib_lycoris
{after}
print((time.perf_counter() - start) * 1000)
"""


def results(count: int = COUNT, runs: int = RUNS) -> list[dict[str, Any]]:
    """Measure, and return name, value, limit and whether it is kept, for each."""
    found = {"import_ms": import_time("", runs), "import_names_ms": import_time("lib_lycoris.load, lib_lycoris.apply", runs)}
    with tempfile.TemporaryDirectory(prefix="lycoris-scan-") as place:
        from .scan_files import make

        folder, data = Path(place, "networks"), Path(place, "data")
        make(folder, count)
        for name, what, kept in (
            ("scan_cold_s", "names", False), ("scan_first_tag_s", "tag", False), ("scan_warm_s", "names", True),
            ("scan_lists_s", "lists", False), ("scan_lists_warm_s", "lists", True),
        ):  # fmt: skip
            times = [_start(folder, data, what, kept, count) for _ in range(1 if name == "scan_lists_s" else runs)]
            found[name] = min(times)
    return [_judged(name, value) for name, value in found.items()]


def import_time(used: str = "", runs: int = RUNS) -> float:
    """Return what `import lib_lycoris` adds to `import torch`, and with it what is used at once, in ms (median)."""
    code = IMPORT.format(before="import torch", after=used)
    with tempfile.TemporaryDirectory() as kept:  # byte code, as every start but the first finds it
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": kept}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        _python(code, environment=environment)
        return median(float(_python(code, environment=environment)) for _ in range(runs))


def _start(folder: Path, data: Path, what: str, kept: bool, count: int) -> float:
    index = data / "index.json"
    if not kept:
        index.unlink(missing_ok=True)
    elif not index.exists():
        raise RuntimeError("there is no index to start from")
    seconds, seen = _python(START, str(folder), str(data), what).split()
    if int(seen) != count:
        raise RuntimeError(f"{seen} files were found, but {count} are there")
    return float(seconds)


def _python(code: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip().splitlines()[-1]


def _judged(name: str, value: float) -> dict[str, Any]:
    return {"name": name, "value": round(value, 4), "limit": LIMITS[name], "within": value <= LIMITS[name]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the results; return 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(description="time the scan of network files and the import of the package")
    parser.add_argument("--count", type=int, default=COUNT, help="files to make (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args(arguments)
    found = results(options.count)
    for item in found:
        print(f"{item['name']:20} {item['value']:10.4f}  limit {item['limit']:g}  {'ok' if item['within'] else 'NOT WITHIN'}")
    if options.json:
        options.json.write_text(json.dumps({"results": found}, indent=2))
    return 0 if all(item["within"] for item in found) else 1


if __name__ == "__main__":
    sys.exit(main())
