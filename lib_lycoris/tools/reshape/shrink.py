"""A network's modules in fewer ranks: decomposed from their factors, cut, and written as LoRA; what has no ranks stays as it is.

What `resize` and `slim` have in common; which rank a module keeps is theirs to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, Union

import torch
from torch import Tensor

from ...algorithms.base import flat
from ...errors import ToolError
from ...networks import Network, load
from ...records import dataclass
from ..extract.difference import Reader
from ..files.checkpoints.checkpoint import Checkpoint, open_checkpoint
from ..files.metadata import describe, make_recipe
from ..files.networks.alpha import alpha_notes, with_alpha
from ..files.networks.growing import GrowingFile, header_room
from ..files.networks.naming import lora, to_dtype
from ..files.networks.network_file import Patch, bundled, carried, patches, with_own
from ..files.networks.reading_back import ReadingBack
from ..files.output import refuse_inputs
from ..jobs.progress import Progress
from ..jobs.workers import count, one_thread_each, ordered
from ..linalg.expand import plain_delta
from ..linalg.low_rank import Svd, qr_svd, randomized_svd
from ..linalg.ranks import Share
from ..units import too_little
from .parts import with_endings


class UnchangedError(ToolError):
    """The new file would be the one that is there: the inputs are good, there is only nothing to do."""


@dataclass(frozen=True)
class Shrunk:
    """One module of the new file, and how it differs from the old one; energies are squared Frobenius norms."""

    module: str
    old: int | None
    new: int | None
    energy: float
    left: float
    algorithm: str
    before: str = ""  # algorithm of the old file, where the new one is made from its change

    @property
    def is_same(self) -> bool:
        """Whether it is a LoRA of the rank that it had."""
        return (self.before, self.old) == (self.algorithm, self.new)


def decomposed(patch: Patch) -> Svd | None:
    """Return the decomposition of a module's change, of what a DoRA scales; None where it has no ranks."""
    if patch.leaf != "weight" or len(patch.shape) < 2:
        return None
    pair = patch.algorithm.direction.low_rank(patch.shape)
    return None if pair is None else qr_svd(*pair)


def decomposed_whole(patch: Patch, weights: Reader | None, largest: int | None) -> Svd | None:
    """Return the decomposition of a change; None where that is not known or no matrix.

    One without factors is decomposed in its full size, in as many ranks as may be written: where the user names none, more than take the
    room of the change as it is stored never are, and for a change at a few places of a large weight those are few.
    """
    found = decomposed(patch)
    if found is not None or patch.leaf != "weight" or len(patch.shape) < 2 or patch.algorithm.magnitudes():
        return found
    if not patch.algorithm.reads_weight:
        change = flat(plain_delta(patch.algorithm, patch.shape))
    elif weights is not None and weights.has(patch.name):
        change = flat(patch.algorithm.delta(weights.read(patch.name, patch.shape)))
    else:
        return None
    return randomized_svd(change, largest or max(1, numbers(patch) // sum(change.shape)))


def numbers(patch: Patch) -> int:
    """Return how many numbers a change is stored in."""
    return sum(tensor.numel() for tensor in patch.algorithm.to_state_dict().values())


@dataclass(frozen=True)
class Shrinking:
    """A network that is to be made smaller, and how its file is written."""

    network: Network
    work: Sequence[Patch]  # what stays
    style: str
    dtype: torch.dtype
    alpha: float | None = None
    decompose: Callable[[Patch], Svd | None] = decomposed

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return torch.empty(0, dtype=self.dtype).element_size()


Choose = Callable[[Patch, Svd], Union[int, None]]  # the rank that a module keeps; 0: it is left out; None: it stays as it is


def opened(model: Any, base_model: Any, family: str | None) -> tuple[Network, list[Patch], Checkpoint | None]:
    """Return a network, its changes that have tensors of their own, and the checkpoint if one is given."""
    checkpoint = open_checkpoint(base_model) if base_model else None
    network = load(model, checkpoint.base if checkpoint else None, family=family)
    return network, with_own(patches(network, checkpoint.base if checkpoint else network.base)), checkpoint


def is_kernel(patch: Patch) -> bool:
    """Tell whether a change is one of a convolution that looks at more than one place."""
    return prod(patch.shape[2:]) > 1


def shrunk(job: Shrinking, patch: Patch, choose: Choose) -> tuple[Shrunk, Patch | None, dict[str, Tensor]]:
    """Return what became of a module, its change where it is kept, and its tensors."""
    svd = job.decompose(patch)
    rank = None if svd is None else choose(patch, svd)
    module = job.network.modules[patch.name]
    whose = f"{job.network.path.name}: {module}"
    if svd is None or rank is None:
        made = None if job.alpha is None else patch.algorithm.with_alpha(job.alpha)
        kept = patch if made is None else replace(patch, algorithm=made)
        row = Shrunk(module, patch.algorithm.rank, patch.algorithm.rank, 0.0, 0.0, patch.algorithm.name, patch.algorithm.name)
        tensors = with_endings(job.style, kept.algorithm, kept.shape)
        same = tensors.keys() == kept.algorithm.to_state_dict().keys()
        return row, kept if same else None, to_dtype(tensors, job.dtype, whose)
    row = Shrunk(module, patch.algorithm.rank, rank, svd.total, svd.left(rank), "lora", patch.algorithm.name)
    if not rank:
        return row, None, {}
    up, down = svd.factors(rank)
    tensors = lora(job.style, up.contiguous(), down.contiguous(), patch.shape[2:])
    tensors.update({suffix: magnitude.float() for suffix, magnitude in patch.algorithm.magnitudes().items()})
    return row, None, to_dtype(with_alpha(tensors, job.alpha), job.dtype, whose)


class Writing:
    """The file of a smaller network: how much room its header needs, then its modules one by one."""

    def __init__(self, job: Shrinking, save_to: Path, recipe: Mapping[str, Any]) -> None:
        refuse_inputs(save_to, [job.network.path])
        self.job, self.recipe, self.save_to = job, recipe, save_to
        self._reading = ReadingBack(job.network, save_to, job.style)
        self._keys = sum(max(4, len(patch.algorithm.tensors()) + 1) for patch in job.work)
        self._keys += sum(map(len, job.network.embeddings.values()))
        self._longest = max(map(len, job.network.modules.values()), default=0) + 20
        self._old = carried(job.network.metadata, recipe, (), settings=self._reading.room)

    @property
    def header(self) -> int:
        """Bytes before the data, at most."""
        return header_room(self._keys, self._longest, self._old)

    def write(self, choose: Choose, comment: Callable[[list[Shrunk]], str], progress: Progress) -> tuple[list[Shrunk], int]:
        """Write the file; return what became of each module, and the bytes. Raises ToolError where nothing is left."""
        job, found = self.job, list[Shrunk]()
        with GrowingFile(self.save_to, self._keys, self._longest, self._old) as file:
            progress.start(len(job.work), "writing", "layers")
            for row, kept, tensors in ordered(lambda patch: shrunk(job, patch, choose), job.work, count()):
                if tensors:
                    self._reading.check(row.module, tensors, kept)
                    file.add(row.module, tensors)
                found.append(row)
                progress.advance(1, row.module)
            if found and not file.keys:
                raise ToolError(f"{_none_left(job)}; nothing was written")
            alpha_notes(file.keys, job.alpha)
            for name, parts in bundled(job.network):
                file.add(name, {part: tensor.to(job.dtype) for part, tensor in parts.items()})
            file.finish(self._metadata(found, comment(found)))
            return found, file.size

    def _metadata(self, found: Sequence[Shrunk], comment: str) -> dict[str, str]:
        plain = all(row.algorithm == "lora" for row in found)
        ranks, settings = [row.new for row in found], self._reading.metadata
        return carried(self.job.network.metadata, self.recipe, ranks, plain, comment, settings, self.job.alpha)


def recipe_of(tool: str, model: Path, options: Mapping[str, Any], recorded: Sequence[str]) -> dict[str, Any]:
    """Return the recipe of a smaller network."""
    return make_recipe(tool, model=describe(model), **{key: options[key] for key in recorded if options.get(key) is not None})


def measured(job: Shrinking, progress: Progress) -> Iterator[tuple[Patch, Svd | None]]:
    """Yield each module with its decomposition."""
    progress.start(len(job.work), "measuring", "layers")
    with one_thread_each():
        for patch in job.work:
            yield patch, job.decompose(patch)
            progress.advance(1, patch.name)


def share(job: Shrinking, patch: Patch, s: Tensor) -> Share:
    """Return a module as one that takes part in a size budget, with the singular values that it may keep."""
    extra = sum(magnitude.numel() for magnitude in patch.algorithm.magnitudes().values())
    return Share(s.clone(), (patch.shape[0] + prod(patch.shape[1:])) * job.width, (1 + extra) * job.width)


def _none_left(job: Shrinking) -> str:
    name = job.network.path.name
    if all(patch.algorithm.is_zero for patch in job.work):
        return f"every layer of {name} is zero, so no rank is left to keep"
    return f"the size is too little for any rank of {name}"


def fixed_bytes(job: Shrinking, whole: Iterable[Patch]) -> int:
    """Return the bytes of what is written whatever the ranks: the modules without any, and embeddings."""
    own = sum(map(numbers, whole))
    return (own + sum(t.numel() for parts in job.network.embeddings.values() for t in parts.values())) * job.width


def refuse_little(job: Shrinking, size: int, room: int) -> None:
    """Raise ToolError where a file size leaves no room for a rank."""
    if room <= 0:
        raise too_little(size, size - room)
