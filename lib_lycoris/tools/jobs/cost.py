"""What a tool's work on a network's modules takes, in seconds and bytes, by constants measured on two cores: `bench tools` holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...records import dataclass
from .workers import count

START, EACH = 0.12, 0.0015  # seconds: to know the base model; to understand a module and make a new one
FACTORED = 3e-10  # for each of (m + n) · r²: the QR and the SVD of up (m, r) · down (r, n)
WEED = 5e-9  # for a number that TIES or DARE choose from
WHOLE = 1.2e-8  # for a number of a matrix that is decomposed whole
MOVED = 2.5e-9  # for a byte that is read, or written and hashed
MEMORY = 20_000_000  # bytes: the base model's names, the file's header
HELD = 1.15  # bytes in memory for a byte of the networks, which are read whole
KEPT = 0.45  # bytes for one of the new file: freed, but not given back
COPIES = 5 * 4  # bytes of a number of the factors that a thread works on: up, down, their Q and the result, in float32
WHOLE_COPIES = 3  # of a whole matrix, in float32


@dataclass(frozen=True)
class Piece:
    """One module's work: factors up (m, r) and down (r, n), or a matrix that has none."""

    sides: int = 0  # m + n
    rank: int = 0
    whole: int = 0  # numbers of the matrix
    decomposed: bool = True  # not only multiplied, put side by side or added up
    whole_copies: int = WHOLE_COPIES
    weeded: int = 0  # numbers of differences that TIES or DARE choose from

    @property
    def seconds(self) -> float:
        """How long its decomposition and the choice take."""
        seconds = FACTORED * self.sides * self.rank**2 + WHOLE * self.whole if self.decomposed else 0.0
        return seconds + WEED * self.weeded

    @property
    def bytes(self) -> int:
        """What it takes while it is worked on."""
        return COPIES * self.sides * self.rank + 4 * self.whole_copies * self.whole


STORED = Piece()  # a module whose tensors are only copied


def together(pieces: Sequence[Piece], decomposed: bool) -> Piece:
    """Return the work on a sum of changes: their factors side by side, and where one is whole its matrix."""
    ranked = [piece for piece in pieces if piece.rank]
    sides, rank = max((piece.sides for piece in ranked), default=0), sum(piece.rank for piece in ranked)
    return Piece(sides, rank, max((piece.whole for piece in pieces), default=0), decomposed)


def weeded(numbers: Sequence[int]) -> Piece:
    """Return the work on whole differences, of so many numbers each: all of them and their sum are held."""
    return Piece(whole=max(numbers), whole_copies=len(numbers) + 1, weeded=sum(numbers))


@dataclass(frozen=True)
class Cost:
    """What a run takes."""

    seconds: float
    bytes: int


def cost(pieces: Iterable[Piece], read: int, written: int, rounds: int = 1, threads: int | None = None) -> Cost:
    """Return what the work takes: every piece decomposed in each of so many rounds, by all threads; read, written: bytes of the files."""
    listed = list(pieces)
    seconds = (
        START + EACH * sum(piece != STORED for piece in listed) + rounds * sum(piece.seconds for piece in listed) + MOVED * (read + written)
    )
    largest = max((piece.bytes for piece in listed), default=0)
    return Cost(round(seconds, 2), int(MEMORY + HELD * read + (threads or count()) * largest))
