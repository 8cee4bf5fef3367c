"""Atomic output file: written to a temporary file, hashed and fsynced in background threads, renamed on success.

A run that fails, is stopped or killed leaves nothing under the final name; what was there before stays.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...atomic import beside
from ...errors import ToolError
from ...networks.hashes import added
from ..jobs.progress import Progress
from ..units import megabytes
from .output_name import check_name

if TYPE_CHECKING:
    from typing_extensions import Self

CHUNK = 16 << 20  # bytes copied between two looks at the progress
FLUSHED = 64 << 20  # bytes that may be written before the disk is told to begin with them
HASHED = 4 << 20  # bytes that may be written before they are hashed, while the processor's cache still holds them
KERNEL_CANNOT = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Output:
    """A new file as a context manager: on a normal end it appears under its name, on any other nothing of it is left."""

    def __init__(self, path: str | Path, hashed: bool = False) -> None:
        self.path = Path(path)
        self.beside = beside(self.path)
        self.size = 0
        self._hashed = hashed
        self._kernel_copies = hasattr(os, "copy_file_range")

    def __enter__(self) -> Self:
        try:
            self._file: FileIO = open(self.beside, "wb", buffering=0)
        except OSError as error:
            raise ToolError(f"{self.path.name} cannot be written to {self.path.parent}: {error.strerror}") from error
        self._threads = [_Behind(self, _Flush(self._file.fileno()), FLUSHED)]
        if self._hashed:
            self._digest = _Digest(self.beside)
            self._threads.append(_Behind(self, self._digest, HASHED))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            try:
                for thread in self._threads:
                    thread.end(wait_for_all=kind is None)
                if kind is None:
                    os.fsync(self._file.fileno())
            finally:
                self._file.close()
            if kind is None:
                os.replace(self.beside, self.path)
                _sync_folder(self.path.parent)
        except OSError as problem:
            raise self._failed(problem) from problem
        finally:
            self.beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> ToolError:
        if error.errno in FULL:
            return ToolError(
                f"the disk is full: {self.path.name} could not be written to {self.path.parent}; free some space and run it again"
            )
        return ToolError(f"{self.path.name} could not be written to {self.path.parent}: {error.strerror or error}")

    def write(self, data: Any) -> None:
        """Append bytes."""
        view = memoryview(data).cast("B")
        while len(view):
            count = self._file.write(view)
            view = view[count:]
            self._grew(count)

    def copy(self, source: FileIO, offset: int, count: int, progress: Progress) -> None:
        """Append bytes of another file, inside the kernel where it can; advances the progress by bytes."""
        while count:
            done = self._copy_some(source, offset, min(count, CHUNK))
            if not done:
                raise ToolError(f"{source.name} ended {count} bytes too early; was it changed meanwhile?")
            offset, count = offset + done, count - done
            progress.advance(done)

    def _copy_some(self, source: FileIO, offset: int, count: int) -> int:
        if self._kernel_copies:
            try:
                done = os.copy_file_range(source.fileno(), self._file.fileno(), count, offset)
            except OSError as error:
                if error.errno not in KERNEL_CANNOT:
                    raise
                self._kernel_copies = False
            else:
                self._grew(done)
                return done
        source.seek(offset)
        block = source.read(count)
        self.write(block)
        return len(block)

    def settle(self) -> None:
        """Put on disk what is written so far: what could fail for want of space has then happened."""
        os.fsync(self._file.fileno())

    def digest(self) -> str:
        """Return the sha256 of the bytes from :meth:`hash_from` on, when all are written."""
        self._threads[-1].end(wait_for_all=True)
        return self._digest.value.hexdigest()

    def hash_from(self, offset: int) -> None:
        """Leave the bytes before an offset out of the hash; to be called before anything is written."""
        if self._hashed:
            self._digest.start = offset

    def patch(self, offset: int, data: bytes) -> None:
        """Overwrite bytes that were written before, outside of what is hashed."""
        self._file.seek(offset)
        self._file.write(data)
        self._file.seek(0, os.SEEK_END)

    def _grew(self, count: int) -> None:
        self.size += count
        for thread in self._threads:
            thread.look()


class _Behind:
    """A thread that follows what is written; its errors are raised in the writer."""

    def __init__(self, output: Output, work: Callable[[int], None], behind: int) -> None:
        self._output, self._work, self._behind = output, work, behind
        self._changed = threading.Condition()
        self._done, self._ending, self._wait_for_all = 0, False, True
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Wake the thread if there is enough to do; raise what it failed with."""
        if self._error is not None:
            raise self._error
        if self._output.size - self._done >= self._behind:
            with self._changed:
                self._changed.notify()

    def end(self, wait_for_all: bool) -> None:
        """Let the thread finish: with all that was written, or at once."""
        with self._changed:
            self._ending, self._wait_for_all = True, wait_for_all
            self._changed.notify()
        self._thread.join()
        if self._error is not None and wait_for_all:
            raise self._error

    def _follow(self) -> None:
        try:
            while True:
                with self._changed:
                    while not self._ending and self._output.size - self._done < self._behind:
                        self._changed.wait()
                    if self._ending and (not self._wait_for_all or self._done == self._output.size):
                        return
                    size = self._output.size
                self._work(size)
                self._done = size
        except OSError as error:
            self._error = error


class _Flush:
    """Puts on disk what is in the system's cache, so that the last fsync finds little left to do."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._sync = getattr(os, "fdatasync", os.fsync)

    def __call__(self, size: int) -> None:
        self._sync(self._file)


class _Digest:
    """The sha256 of the file from a start on, read back from the system's cache."""

    def __init__(self, path: Path) -> None:
        self.start = 0
        self.value = hashlib.sha256()
        self._path, self._done = path, 0

    def __call__(self, size: int) -> None:
        self._done = max(self._done, self.start)
        self._done += sum(added(self.value, self._path, self._done, size)) if self._done < size else 0
        if self._done < size:
            raise OSError(errno.EIO, "the file is shorter than what was written to it")


class InputHash:
    """The sha256 of an input file from a place on, taken by a thread while the file is worked on."""

    def __init__(self, path: Path, begin: int = 0) -> None:
        self._path, self._begin, self._stopped = path, begin, False
        self._version = _version(path)
        self._value = hashlib.sha256()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def result(self) -> str:
        """Wait for the hash and return it. Raises ToolError where the file was changed: others read other bytes of it than these."""
        self._thread.join()
        if self._error is not None:
            raise ToolError(f"{self._path.name} cannot be read: {self._error.strerror}") from self._error
        if _version(self._path) not in (self._version, None):  # what was only moved away is still what was read
            raise ToolError(f"{self._path.name} was changed while it was read; run it again when nothing writes to it")
        return self._value.hexdigest()

    def stop(self) -> None:
        """Leave it unfinished."""
        self._stopped = True

    def _read(self) -> None:
        try:
            for _ in added(self._value, self._path, self._begin):
                if self._stopped:
                    break
        except OSError as error:
            self._error = error


def _version(path: Path) -> tuple[int, ...] | None:
    """Return what differs after a file was written to or replaced; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def input_hash(path: Path | None, begin: int = 0) -> Iterator[InputHash | None]:
    """Give the hash of a file from a place on while it is being taken; nothing for no file."""
    reading = None if path is None else InputHash(path, begin)
    try:
        yield reading
    finally:
        if reading is not None:
            reading.stop()


def _sync_folder(folder: Path) -> None:
    """Put the new name on disk; systems without open folders do that on their own."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_space(folder: Path, needed: int, name: str) -> None:
    """Raise ToolError when a file of so many bytes has no room in a folder."""
    if not folder.is_dir():
        raise ToolError(f"{folder} is not there; make the folder first, {name} is to be written into it")
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ToolError(f"the disk is full: {name} needs {megabytes(needed)} and {folder} has {megabytes(free)} left; free some space")


def refuse_strangers(path: Path, suffixes: Sequence[str], option: str) -> None:
    """Raise ToolError when an output would replace a file of another kind than itself: somebody's notes, a file of the system."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ToolError(f"{path.name} is there already and is no file but a pipe or a device; give `{option}` another name")
    if path.is_file() and path.suffix.lower() not in suffixes:
        kinds = " or ".join(suffixes)
        raise ToolError(f"{path.name} is there already and is no {kinds} file, so it is not replaced; give `{option}` another name")


def refuse_inputs(save_to: Path, inputs: list[Path]) -> None:
    """Raise ToolError when an output would take an input's place, or has a name that nobody could use."""
    check_name(save_to)
    for path in inputs:
        if os.path.realpath(save_to) == os.path.realpath(path) or (save_to.exists() and path.exists() and os.path.samefile(save_to, path)):
            raise ToolError(f"{save_to.name} is an input; inputs are never overwritten, give `save_to` another name")
