"""The process of a training: `python -m lib_lycoris.training --train_data_dir DIR --output_name NAME ...`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from ..errors import LycorisError

if TYPE_CHECKING:
    from .reporting.events import Events

FAILED, STOPPED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Train as a command line asks for; what goes wrong is one sentence on stderr. Return the exit code."""
    from .settings import read_settings

    events = None
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv)
        from .dry_run import dry_run
        from .loop import Loop
        from .memory import fitting
        from .setup import prepare

        with fitting(settings, "this training"):
            run = prepare(settings)
            events = run.events
            if settings.dry_run:
                print(dry_run(run))
                return 0
            with _gentle_stop(events):
                done = Loop(run).go()
    except (LycorisError, OSError, SafetensorError) as error:
        said = str(error) if isinstance(error, LycorisError) else _system_error(error)
        print(f"error: {said}", file=sys.stderr)
        if events is not None and events.path.parent.is_dir() and (events.begun or settings.resume or not events.path.exists()):
            with suppress(OSError):  # the disk may be full
                events.tell("failed", text=said)
        return FAILED
    except KeyboardInterrupt:
        print("\nStopped; --resume goes on from the last state.", file=sys.stderr)
        return STOPPED
    return 0 if done else STOPPED


def _system_error(error: OSError | SafetensorError) -> str:
    """Return what the system says of a file or a disk as a sentence."""
    name, why = getattr(error, "filename", None) or "a file", getattr(error, "strerror", None) or error
    return f"{name} cannot be read or written: {why}; mend that, and --resume goes on where a run had begun"


@contextmanager
def _gentle_stop(events: Events) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the run after its step, with its state kept; the second time at once."""

    def wish(number: int, frame: FrameType | None) -> None:
        if events.wished:
            raise KeyboardInterrupt
        events.wished = True
        print("\nstopping after this step; once more to stop at once", file=sys.stderr, flush=True)

    before = {}
    with suppress(ValueError):  # only the main thread may say what a signal does
        before = {number: signal.signal(number, wish) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
