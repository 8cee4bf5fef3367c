"""`python -m lib_lycoris` and `lycoris`: the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; Ctrl-C counts from the first second, in which torch is imported."""
    try:
        from .cli import main as command_line

        return command_line()
    except KeyboardInterrupt:
        print("\nStopped before anything was done.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
