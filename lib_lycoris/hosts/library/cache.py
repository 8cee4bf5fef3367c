"""LRU cache of loaded networks, limited by size in MiB; those of the last prompt always stay."""

from __future__ import annotations

from pathlib import Path

import torch

from ...errors import LycorisError
from ...models import BaseModel
from ...networks import Network, load
from ...records import dataclass

MIB = 1 << 20
KEPT_MIB = 256  # by default


@dataclass(frozen=True, eq=False)
class CachedNetwork:
    """What a file held when it was read: a network, or why there is none."""

    stamp: tuple[int, int]  # time and size of the file
    content: Network | LycorisError

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        return self.content.bytes if isinstance(self.content, Network) else 0


class NetworkCache:
    """Networks by file, model and precision, the least recently used forgotten first."""

    def __init__(self) -> None:
        self._found: dict[tuple[Path, object, torch.dtype], CachedNetwork] = {}
        self._used: set[tuple[Path, object, torch.dtype]] = set()

    def get(
        self, path: Path, base: BaseModel, model: object, dtype: torch.dtype, other_family: bool = False
    ) -> tuple[Network, tuple[int, int]]:
        """Return the network in a file and the file's time and size, read again if it has changed; raise LycorisError or OSError.

        model: what tells models apart for which a file may mean different things; dtype: what the model computes in; other_family: whether
        a network of another family is put on the layers that fit.
        """
        key = (path, (model, other_family), dtype)
        info = path.stat()
        stamp = (info.st_mtime_ns, info.st_size)
        entry = self._found.pop(key, None)
        if entry is None or entry.stamp != stamp:
            entry = CachedNetwork(stamp, _read(path, base, dtype, other_family))
        self._found[key] = entry  # the latest last
        self._used.add(key)
        if isinstance(entry.content, LycorisError):
            raise type(entry.content)(*entry.content.args)
        return entry.content, stamp

    def end_run(self, mib: float, count: int = 0) -> None:
        """Drop what the last run did not use, except the most recent ones: up to `mib` MiB, and a number of files of any size."""
        room = mib * MIB
        for place, key in enumerate(key for key in reversed(list(self._found)) if key not in self._used):
            room -= self._found[key].bytes
            if room < 0 and place >= count:
                del self._found[key]
        self._used = set()

    def forget(self, mib: float = 0, count: int = 0) -> None:
        """Forget all, what is in use too, but for so much."""
        self._used = set()
        self.end_run(mib, count)


def _read(path: Path, base: BaseModel, dtype: torch.dtype, other_family: bool) -> Network | LycorisError:
    """Return the network, or why there is none: a file is not read anew for each image to see that a refiner has no use for it."""
    try:
        return load(path, base, dtype, other_family=other_family)
    except LycorisError as error:
        return type(error)(*error.args)  # without its trace, which holds on to what was read
