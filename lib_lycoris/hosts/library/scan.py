"""One look at the headers of many files, by several threads: first what they are called, then what they hold; only what the index lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Lock, Thread, main_thread

from .facts import Describer, NetworkFacts, read_names, stamp_of
from .index import Index

THREADS = 4  # they wait for disks; the work itself is done one at a time
PART = 64  # files for which another thread is worth its start


class Scan:
    """A scan of some files into an index. Names are needed by tags, so they come first and for all files."""

    def __init__(self, paths: Sequence[str], folders: Sequence[Path], index: Index, describe: Describer) -> None:
        self.paths = tuple(paths)
        self._folders = tuple(folders)
        self._index = index
        self._describe = describe
        self._named = False
        self._naming = Lock()
        self._stopped = Event()
        self._thread: Thread | None = None

    def start(self, describe: bool) -> None:
        """Scan in a thread of its own: the names alone, or all facts."""
        # no daemon: Python would end it inside torch, which takes the whole process down; see _each for how it ends
        self._thread = Thread(target=self._run, args=(describe,), name="lycoris-scan")
        self._thread.start()

    def stop(self) -> None:
        """Have a running scan end soon: another one takes its place."""
        self._stopped.set()

    def wait_for_names(self) -> None:
        """Return when all names are known; read them here if no other thread is about it."""
        with self._naming:
            if not self._named:
                self._each(self._name, [path for path in self.paths if not self._fresh(path)])
                self._named = True

    def aliases(self) -> list[str]:
        """Return each file's alias, empty for those without one, when all names are known."""
        self.wait_for_names()
        return [self._index.alias(path) for path in self.paths]

    def wait(self) -> None:
        """Return when the scan that was started is at its end."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, describe: bool) -> None:
        self.wait_for_names()
        self._save()  # now, for what follows takes longer
        if describe:
            self._each(self._unless_stopped, [path for path in self.paths if not self._index.described(path)])
            self._save()

    def _save(self) -> None:
        if not self._stopped.is_set() and main_thread().is_alive():
            self._index.save(set(self.paths), self._folders)

    def _each(self, work: Callable[[str], object], paths: Sequence[str]) -> None:
        todo = iter(paths)  # shared: taking the next one is a single step of the interpreter

        def run() -> None:
            for path in todo:
                if not main_thread().is_alive():
                    return  # the process ends, and waits for us
                work(path)

        others = [Thread(target=run, name="lycoris-scan") for _ in range(min(THREADS - 1, len(paths) // PART))]
        for thread in others:
            thread.start()
        run()
        for thread in others:
            thread.join()

    def _fresh(self, path: str) -> bool:
        try:
            return self._index.knows(path, stamp_of(path))
        except OSError:
            return True  # it was taken away after the look at the folder

    def _name(self, path: str) -> NetworkFacts | None:
        try:
            stamp = stamp_of(path)
            found = self._index.get(path, stamp)
            if found is None:
                found = read_names(path)
                self._index.put(path, found)
        except OSError:
            return None
        return found

    def _unless_stopped(self, path: str) -> None:
        if not self._stopped.is_set():
            self.facts(path)

    def facts(self, path: str) -> NetworkFacts | None:
        """Return all facts about one file as it is now; None if it is gone."""
        found = self._name(path)
        if found is None or found.described:
            return found
        try:
            described = self._describe(path, found)
        except OSError:
            return None
        self._index.put(path, described)
        return described
