"""A tool that is killed, or has no more room, at any moment: inputs are what they were, an output is whole or not there.

Each run is a fork of this process, which has imported all that it takes: a moment costs milliseconds, not seconds.
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
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lib_lycoris.errors import LycorisError
from lib_lycoris.tools import TOOLS

from .fence import fence
from .judge import Unclean, wrong_with
from .tiny_files import FILES, prepared

OUT, UNDO = "out.safetensors", "out.undo"
RUNS: dict[str, dict[str, Any]] = {
    "merge": {"sd_model": "base.safetensors", "models": ["one.safetensors", "two.safetensors"], "save_to": OUT, "undo_file": UNDO},
    "networks_merge": {"models": ["one.safetensors", "two.safetensors"], "save_to": OUT},
    "extract": {"model_org": "base.safetensors", "model_tuned": "tuned.safetensors", "save_to": OUT, "dim": 2},
    "measure": {"model_org": "base.safetensors", "model_tuned": "tuned.safetensors", "save_to": OUT},
    "resize": {"model": "one.safetensors", "new_rank": 1, "save_to": OUT},
    "convert": {"model": "one.safetensors", "save_precision": "fp16", "save_to": OUT},
    "bake": {"model": "one.safetensors", "ratio": 0.5, "save_to": OUT},
    "split": {"model": "one.safetensors", "unit": 1, "save_to": OUT},
    "metadata": {"models": ["one.safetensors"], "title": "new", "save_to": OUT},
    "undo": {"merged": "merged.safetensors", "undo_file": "merged.undo", "save_to": OUT},
}
WORKED, REFUSED, FAULT = 0, 3, 4  # exit codes of a fork
Before = Callable[[], None]  # is called in the fork before the tool begins


def options(tool: str, folder: Path) -> dict[str, Any]:
    """Return what a tool is run with in a folder."""
    found: dict[str, Any] = {}
    for name, value in RUNS[tool].items():
        files = isinstance(value, (str, list)) and name not in ("title", "save_precision")
        found[name] = ([folder / one for one in value] if isinstance(value, list) else folder / value) if files else value
    return found


def fork(tool: str, folder: Path, before: Before = lambda: None) -> int:
    """Start a run in a fork; return its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = FAULT
    try:
        fence(folder)
        before()
        result = TOOLS[tool].run(**options(tool, folder))
        code = REFUSED if result.report.get("ok") is False else WORKED  # `metadata` goes on with its other files and tells what failed
    except LycorisError as error:
        code = REFUSED
        if said := wrong_with(str(error)):
            code = FAULT
            print(said, file=sys.stderr, flush=True)
    except BaseException:  # noqa: BLE001 - the fork must never go on as this process
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Wait for a fork; return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@cache
def whole(tool: str) -> tuple[dict[str, bytes], float]:
    """Return what a tool writes when nothing stops it, and how long it takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(folder)
        began = time.monotonic()
        code = ended(fork(tool, folder))
        if code != WORKED:
            raise Unclean(f"{tool} ends with {code}")
        return outputs(folder), time.monotonic() - began


def outputs(folder: Path) -> dict[str, bytes]:
    """Return the files that a run has left, its inputs and what is half written apart."""
    return {path.name: _in_order(path.read_bytes()) for path in folder.iterdir() if path.name not in FILES and path.suffix != ".part"}


def _in_order(data: bytes) -> bytes:
    """Return a file with its metadata sorted: safetensors' own writer puts the entries in an order by chance."""
    length = int.from_bytes(data[:8], "little")
    try:
        return json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True).encode() + data[8 + length :]
    except ValueError:
        return data


def check(tool: str, folder: Path, inputs: dict[str, bytes]) -> None:
    """Raise Unclean unless the inputs are unchanged, every output is whole, and an undo file has its merge."""
    changed = [name for name, data in inputs.items() if (folder / name).read_bytes() != data]
    expected, found = whole(tool)[0], outputs(folder)
    broken = [name for name, data in found.items() if expected.get(name) != data]
    if changed or broken or (UNDO in found and OUT not in found):
        raise Unclean(f"{tool}: inputs changed {changed}, outputs not whole {broken}, there are {sorted(found)}")


def again(tool: str, folder: Path) -> None:
    """Run a tool once more in this process: it works, and says what it has removed."""
    left = sorted(path.name for path in folder.glob(".*.part"))
    result = TOOLS[tool].run(**options(tool, folder))
    if sorted(result.report.get("removed_leftovers", [])) != left or list(folder.glob(".*.part")):
        raise Unclean(f"{tool}: {left} was left, {result.report.get('removed_leftovers')} is said to be removed")
    if left and "removed what killed runs had left half-written" not in result.text:
        raise Unclean(f"{tool} removes what was left and does not say so")
    if outputs(folder) != whole(tool)[0]:
        raise Unclean(f"{tool} gives another result after a kill")


def _killed_at(count: int) -> Before:
    """Return what has a fork killed around its nth renaming: before it for even numbers, after it for odd ones."""

    def before() -> None:
        replace, calls = os.replace, []

        def killing(*arguments: Any, **named: Any) -> None:
            calls.append(1)
            if len(calls) == count // 2 + 1 and count % 2 == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*arguments, **named)
            if len(calls) == count // 2 + 1:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = killing  # type: ignore[assignment]

    return before


def kill(tool: str, rng: random.Random, folder: Path) -> str:
    """Kill a run at a random moment, or around one of its renamings; say how far it came."""
    inputs, seconds = prepared(folder), whole(tool)[1]
    number = rng.randrange(8)
    child = fork(tool, folder, _killed_at(number) if number < 4 else lambda: None)
    if number >= 4:
        time.sleep(rng.uniform(0, seconds * 1.1))
        os.kill(child, signal.SIGKILL)
    code = ended(child)
    if code not in (WORKED, -signal.SIGKILL):
        raise Unclean(f"{tool} ends with {code}")
    check(tool, folder, inputs)
    left = bool(list(folder.glob(".*.part")))
    again(tool, folder)
    check(tool, folder, inputs)
    return "had ended" if code == WORKED else "left a part" if left else "left nothing"


def full(tool: str, rng: random.Random, folder: Path) -> str:
    """Let a run find no room at a random size; say whether it was refused."""
    inputs, sizes = prepared(folder), [len(data) for data in whole(tool)[0].values()]
    largest = rng.randrange(max(sizes) + 100)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    code = ended(fork(tool, folder, limited))
    if code not in (WORKED, REFUSED):
        raise Unclean(f"{tool} with room for {largest} bytes ends with {code}")
    check(tool, folder, inputs)
    if code == REFUSED and ((outputs(folder) and tool != "split") or list(folder.glob(".*.part"))):  # split has several, each whole
        raise Unclean(f"{tool} was refused and has left {os.listdir(folder)}")
    return "worked" if code == WORKED else "refused"


def together(tool: str, rng: random.Random, folder: Path) -> str:
    """Let two processes write the same output at once: one of them is there in the end, whole."""
    inputs = prepared(folder)
    children = [fork(tool, folder) for _ in range(2)]
    codes = sorted(map(ended, children))
    if codes[0] != WORKED or codes[1] not in (WORKED, REFUSED):
        raise Unclean(f"two runs of {tool} end with {codes}")
    check(tool, folder, inputs)
    if outputs(folder) != whole(tool)[0] or list(folder.glob(".*.part")):
        raise Unclean(f"two runs of {tool} leave {os.listdir(folder)}")
    return "one refused" if codes[1] else "both worked"


def changed_meanwhile(tool: str, rng: random.Random, folder: Path) -> str:
    """Replace, cut or remove an input while a run reads it: a sentence, or a whole output, and nothing else is touched."""
    prepared(folder)
    mine = [path for value in options(tool, folder).values() for path in (value if isinstance(value, list) else [value])]
    victim = rng.choice([path for path in mine if isinstance(path, Path) and path.exists()])
    child = fork(tool, folder)
    time.sleep(rng.uniform(0, whole(tool)[1]))
    act = rng.choice(("remove", "replace", "cut"))
    if act == "remove":
        victim.unlink()
    elif act == "replace":
        (folder / "x").write_bytes(rng.randbytes(5000))
        os.replace(folder / "x", victim)
    else:
        os.truncate(victim, rng.randrange(200))
    code = ended(child)
    found = outputs(folder)
    half = code == REFUSED and found and tool != "split" and found != whole(tool)[0]  # the report is made when the output has its name
    if code not in (WORKED, REFUSED) or list(folder.glob(".*.part")) or half or (UNDO in found and OUT not in found):
        raise Unclean(f"{tool}, {victim.name}: {act} ends with {code} and leaves {sorted(found)}")
    return "worked" if code == WORKED else "refused"


KINDS: tuple[Callable[[str, random.Random, Path], str], ...] = (kill, full, together, changed_meanwhile)


def moment(tool: str, kind: Callable[[str, random.Random, Path], str], seed: int) -> str:
    """Run one moment in a folder of its own; return what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        return kind(tool, random.Random(f"{tool} {kind.__name__} {seed}"), Path(folder))


def main(first: int, count: int) -> None:
    """Print what so many moments of every kind and tool come to, one JSON line each."""
    for tool in RUNS:
        for kind in KINDS:
            told: dict[str, int] = {}
            for seed in range(first, first + count):
                outcome = moment(tool, kind, seed)
                told[outcome] = told.get(outcome, 0) + 1
            print(json.dumps({"tool": tool, "kind": kind.__name__, "first": first, "moments": count, "outcomes": told}), flush=True)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # forks do not take the threads of the pool along
    main(int(sys.argv[1]), int(sys.argv[2]))
