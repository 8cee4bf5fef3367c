"""`python -m lib_lycoris` and `lycoris`: the command line."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; Ctrl-C counts from the first second, in which torch is imported."""
    atexit.register(gc.freeze)  # Python looks through all objects as it ends, for nobody: 0.4 s with torch's
    try:
        from .cli import main as command_line

        return command_line(argv)
    except KeyboardInterrupt:
        print("\nStopped before anything was done.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
