"""A fence around fuzz cases: nothing outside one folder can be written, moved or removed, whatever name a case makes up.

Names of files are mutated too, and one may be that of a file of the system. The case is then unclean, and the file is as it was.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# audit events -> which of their arguments are paths that are changed, and the folders, as open files, that these are relative to
CHANGED = {
    "os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.mkdir": ((0, 2),), "os.rename": ((0, 2), (1, 3)), "os.link": ((1, 3),),
    "os.symlink": ((1, 2),), "os.truncate": ((0, None),), "os.chmod": ((0, 2),), "os.chown": ((0, 3),), "os.utime": ((0, 3),),
    "shutil.move": ((0, None), (1, None)), "shutil.copyfile": ((1, None),),
}  # fmt: skip
HARMLESS = ("/dev/null", "/proc/self/")


class OutsideTheFence(BaseException):
    """Something outside of the folder was about to be written; no handler of an Exception may hold it."""


def fence(folder: Path) -> None:
    """Let this process write below a folder only, from now on and for good."""
    root = os.path.realpath(folder)

    def check(path: Any, beside: Any = None) -> None:
        if isinstance(path, int):  # a file that is open already passed here when it was opened
            return
        start = f"/proc/self/fd/{beside}" if isinstance(beside, int) and beside >= 0 else ""
        real = os.path.realpath(os.path.join(start, os.fsdecode(path)))
        if real != root and not real.startswith((root + os.sep, *HARMLESS)) and "__pycache__" not in real:
            raise OutsideTheFence(f"{real} would be changed")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if (isinstance(flags, int) and flags & WRITING) or (isinstance(mode, str) and set(mode) & set("wax+")):
                check(path)
        elif event in CHANGED:
            for place, beside in CHANGED[event]:
                check(arguments[place], None if beside is None else arguments[beside])
        elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.spawn"):
            raise OutsideTheFence(f"{event}: a program would be started")

    sys.addaudithook(hook)
