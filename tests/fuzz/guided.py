"""Inputs that are found by what they reach in the parsers: ``python -m tests.fuzz.guided header|tags [RUNS]``.

Needs `atheris`, which is not among the tests' packages (it is for Linux only): ``pip install atheris``. An input that is not clean
ends the run; libFuzzer prints it and writes it to a file `crash-...` in the current folder.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

from .fence import fence

with atheris.instrument_imports(include=["lib_lycoris.networks.reading", "lib_lycoris.prompt"]):
    from .parsers import PARSERS

RUNS = 1_000_000
IN_MEMORY = Path("/dev/shm")


def main(name: str, runs: int) -> None:
    """Run so many inputs; libFuzzer ends the process."""
    parser, starts, words = PARSERS[name]
    with tempfile.TemporaryDirectory(prefix="lycoris-guided-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as place:
        found, dictionary = Path(place, "found"), Path(place, "words.txt")
        found.mkdir()
        for number, start in enumerate(starts):
            (found / str(number)).write_bytes(start)
        dictionary.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"\n' for word in words))
        crashes = f"-artifact_prefix={os.getcwd()}/"
        os.chdir(place)
        fence(Path(place))
        atheris.Setup([sys.argv[0], f"-runs={runs}", "-max_len=2048", f"-dict={dictionary}", crashes, str(found)], parser)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else RUNS)
