"""Which images make which batch: buckets, repeats and regularisation, in an order that follows from seed and epoch alone."""

from __future__ import annotations

from collections.abc import Sequence

from ...records import dataclass
from ..steps.draws import chooser
from .items import Catalogue, Item


@dataclass(frozen=True)
class Batch:
    """Images of one bucket that are computed together, and where in the run."""

    items: tuple[Item, ...]
    epoch: int  # from 0
    number: int  # of the batch in the whole run, from 0: what every random choice in it follows from


class Order:
    """The batches of a run, one after the other without end."""

    def __init__(self, found: Catalogue, seed: int, processes: int = 1) -> None:
        self.seed, self.processes = seed, processes
        self.datasets = found.datasets
        self.entries = repeated(found.items)
        self._epoch = -1
        self._batches: list[tuple[Item, ...]] = []
        self.length = len(self._of(0))  # batches an epoch: the same in each

    def batch(self, number: int) -> Batch:
        """Return a batch of the run, counted from 0."""
        epoch, place = divmod(number, self.length)
        return Batch(self._of(epoch)[place], epoch, number)

    def _of(self, epoch: int) -> list[tuple[Item, ...]]:
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffled(epoch)
        return self._batches

    def _shuffled(self, epoch: int) -> list[tuple[Item, ...]]:
        choose = chooser(self.seed, "order", epoch)
        groups = by_bucket(self.entries)
        batches = []
        for key in sorted(groups):
            items = groups[key]
            choose.shuffle(items)
            size = self.datasets[key[0]].batch_size * self.processes
            batches += [tuple(items[start : start + size]) for start in range(0, len(items), size)]
        choose.shuffle(batches)
        return batches


def by_bucket(items: Sequence[Item]) -> dict[tuple[int, tuple[int, int]], list[Item]]:
    """Return (dataset, bucket) -> the images that make batches together."""
    groups: dict[tuple[int, tuple[int, int]], list[Item]] = {}
    for item in items:
        groups.setdefault((item.dataset, item.fit.bucket), []).append(item)
    return groups


def repeated(items: Sequence[Item]) -> list[Item]:
    """Return each image as often as its folder says; regularisation images in turn, as many as there are others."""
    own = [item for item in items if not item.subset.regularisation for _ in range(item.subset.repeats)]
    others = [item for item in items if item.subset.regularisation]
    regular: list[Item] = []
    while others and len(regular) < len(own):
        regular += others[: len(own) - len(regular)]
    return own + regular


def share_of(items: Sequence[Item], process: int, processes: int) -> list[tuple[int, Item]]:
    """Return what one of several processes computes of a batch, with the places in it."""
    size = -(-len(items) // processes)
    return [(place, items[place]) for place in range(process * size, min((process + 1) * size, len(items)))]
