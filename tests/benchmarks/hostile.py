"""Small hostile files, prompts and requests: how long and how much memory until each works, or its sentence is there.

``python3 -m tests.benchmarks.hostile [--only SURFACE ...] [--kind TEXT] [--uses NAME ...] [--json FILE]``. Every kind runs in a child of
its own: a fork of this process, in which a good file was used in the same ways. The time is the processor's; memory is what the child
holds beyond what it held before.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lib_lycoris.errors import LycorisError
from tests.fuzz.fence import fence
from tests.fuzz.judge import wrong_with
from tests.fuzz.run import TooLong, limit_memory
from tests.fuzz.tiny_files import good_files, prepared

from . import hostile_networks, hostile_texts
from .hostile_surface import Make, Surface, Use

LIMITS = {"seconds": 1.0, "mb": 64.0}  # of what is hostile and small, until it is read or its sentence is there
LARGEST = {"seconds": 10.0, "mb": 256.0}  # of work that is done with it; in the suite, beside everything else, of all
ALL_LIMITS = {**LIMITS, **{f"work_{what}": limit for what, limit in LARGEST.items()}}
PATIENCE = 60  # seconds of the processor until a use is ended
MB = 1e6
SURFACES: dict[str, Surface] = {**hostile_networks.SURFACES, **hostile_texts.SURFACES}
Measured = dict[str, Any]


class Peak:
    """The most memory that this process held since a moment beyond what it held then, without pages of files (Linux)."""

    def __init__(self) -> None:
        self._anew = os.open("/proc/self/clear_refs", os.O_WRONLY)  # behind the fence it could not be opened
        self._level = 0

    def begin(self) -> None:
        """Give back what is free, and measure from here on."""
        gc.collect()
        if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
            library.malloc_trim(0)
        os.write(self._anew, b"5")
        self._level = self._told("RssAnon")

    def bytes(self) -> int:
        """Return the most since then."""
        return max(0, self._told("VmHWM") - self._told("RssFile") - self._level)

    @staticmethod
    def _told(what: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))


def results(surfaces: Iterable[str] = SURFACES, kind: str = "", uses: Collection[str] = ()) -> Iterator[Measured]:
    """Measure each kind of the surfaces whose name holds a text; give what the worst of its uses took, and what it came to.

    uses: what is done with it (nothing: all that is).
    """
    good_files()
    torch.set_num_threads(1)  # a fork does not take the threads of the pool along
    for name in surfaces:
        surface = SURFACES[name].with_uses(uses) if uses else SURFACES[name]
        _use_good(surface)
        for each, make in surface.kinds.items():
            if kind in each:
                yield {"name": f"{name}: {each}", **_in_child(surface, make)}


def _use_good(surface: Surface) -> None:
    """Use what works in every way: what is imported and made once is not part of what a hostile file takes."""
    with tempfile.TemporaryDirectory() as folder:
        prepared(Path(folder))
        surface.good(Path(folder))
        for use in (*surface.uses.values(), *surface.work.values()):
            with suppress(LycorisError):
                use(Path(folder))


def _in_child(surface: Surface, make: Make) -> Measured:
    """Measure one kind in a fork of this process, in which everything is imported."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "told.json")
        child = os.fork()
        if not child:
            try:
                inside = Path(folder, "inside")
                inside.mkdir()
                found = _measured(surface, make, inside)
                told.write_text(json.dumps(found))
            except BaseException:  # noqa: BLE001 - the fork must never go on as this process
                traceback.print_exc()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        nothing = dict.fromkeys(("bytes", "worked", "uses", *ALL_LIMITS), 0.0) | {"unclean": ["the process ended"]}
        return json.loads(told.read_text()) if told.is_file() else nothing  # type: ignore[no-any-return]


def _measured(surface: Surface, make: Make, folder: Path) -> Measured:
    """Use what is hostile in every way; return the most that one of them took."""

    def too_long(*_: Any) -> None:
        raise TooLong

    tempfile.tempdir = str(folder)
    peak = Peak()
    fence(folder.parent)
    signal.signal(signal.SIGPROF, too_long)
    limit_memory()
    prepared(folder)
    surface.good(folder)
    before = sizes(folder)
    make(folder)
    made = sizes(folder)
    found = {name: _use(use, folder, peak) for name, use in (surface.uses | surface.work).items()}
    told = {}
    for what in LIMITS:
        done = {name for name in surface.work if found[name]["outcome"] == "worked"}
        for kind, names in ((what, found.keys() - done), (f"work_{what}", done)):
            worst = max(names, key=lambda name, what=what: found[name][what], default=None)  # type: ignore[misc]
            told[kind] = found[worst][what] if worst else 0.0
            told[f"most_{kind}"] = worst
    return {
        **told, "bytes": sum(size for path, size in made.items() if size != before.get(path)),
        "worked": sum(one["outcome"] == "worked" for one in found.values()), "uses": len(found),
        "unclean": [f"{name}: {one['said']}" for name, one in found.items() if one["outcome"] == "unclean"],
    }  # fmt: skip


OUTPUTS = ("out.safetensors",)


def sizes(folder: Path) -> dict[Path, int]:
    """Return the size of each file below a folder."""
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _use(use: Use, folder: Path, peak: Peak) -> Measured:
    """Do one thing with what is hostile; return what it took and came to."""
    os.chdir(folder)
    peak.begin()
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    start = time.process_time()
    try:
        use(folder)
        outcome, said = "worked", ""
    except LycorisError as error:
        said = str(error)
        outcome = "unclean" if wrong_with(said) else "sentence"
    except BaseException as error:  # noqa: BLE001 - what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome, said = "unclean", f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
    finally:
        seconds = time.process_time() - start
        signal.setitimer(signal.ITIMER_PROF, 0)
    more = peak.bytes()
    for name in OUTPUTS:
        (folder / name).unlink(missing_ok=True)
    return {"seconds": seconds, "mb": more / MB, "outcome": outcome, "said": said}


def judged(found: Measured) -> list[dict[str, Any]]:
    """Return name, value, limit and whether it is kept, of what a kind took."""
    values = {**{what: found[what] for what in ALL_LIMITS}, "unclean": len(found["unclean"])}
    return [
        {"name": f"{found['name']}, {what}", "value": round(value, 3), "limit": limit, "within": value <= limit}
        for what, value in values.items()
        for limit in (ALL_LIMITS.get(what, 0),)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the results; return 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(description="time and memory that small hostile files take before their sentence")
    parser.add_argument("--only", nargs="+", choices=SURFACES, default=list(SURFACES), help="measure these alone")
    parser.add_argument("--kind", default="", help="measure the kinds alone whose names hold this")
    parser.add_argument("--uses", nargs="+", default=(), help="do only this with what is hostile, such as load (default: all that is done)")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args(arguments)
    told: list[dict[str, Any]] = []
    for found in results(options.only, options.kind, options.uses):
        values = judged(found)
        told += values
        over = [f"{value['name']}: {found.get('most_' + value['name'].rpartition(', ')[2])}" for value in values if not value["within"]]
        print(
            f"{found['name']:44} {found['bytes'] / 1000:6.0f} kB {found['seconds']:8.3f} s {found['mb']:7.1f} MB "
            f"{found['work_seconds']:8.3f} s {found['work_mb']:7.1f} MB {found['worked']:3} of {found['uses']:2} worked  "
            + (f"NOT WITHIN {over} {found['unclean'] or ''}" if over else "ok"),
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"results": told}, indent=2))
    return 0 if all(value["within"] for value in told) else 1


if __name__ == "__main__":
    sys.exit(main())
