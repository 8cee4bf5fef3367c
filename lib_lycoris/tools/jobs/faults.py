"""What a machine does to a run: a file that vanishes while it is read, memory that runs out. Each is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ToolError, readable, says_no_memory


@contextmanager
def machine_faults() -> Iterator[None]:
    """Turn errors of the system and of memory into ToolError; all others are faults of ours and stay what they are."""
    try:
        yield
    except OSError as error:
        name = Path(str(error.filename)).name if error.filename else "a file"
        raise ToolError(f"{readable(name)} cannot be used: {error.strerror or error}; was it moved or changed meanwhile?") from error
    except (MemoryError, RuntimeError) as error:
        if not says_no_memory(error):
            raise
        sentence = "there is not enough memory for this; close other programs, or use another device. Nothing was written"
        raise ToolError(sentence) from error
