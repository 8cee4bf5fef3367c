"""`python -m lib_lycoris` and `lycoris`: the command line."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Run the command line; Ctrl-C counts from the first second, in which torch is imported."""
    try:
        from .cli import main as command_line

        return command_line()
    except KeyboardInterrupt:
        print("\nStopped before anything was done.", file=sys.stderr)
        return 130
    finally:
        gc.freeze()  # Python looks through all objects as it ends, for nobody: 0.4 s with torch's


if __name__ == "__main__":
    sys.exit(main())
