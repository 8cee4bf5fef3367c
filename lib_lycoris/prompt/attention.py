"""The webui's emphasis: `(x)` is 1.1 times x, `[x]` 1/1.1 times, `(x:1.3)` 1.3 times, `\\(` a bracket; `BREAK` begins a new piece."""

from __future__ import annotations

import re

from ..errors import PromptError
from .number import parse_number

ROUND, SQUARE = 1.1, 1 / 1.1
BREAK = ("BREAK", -1.0)
DEEPEST = 100  # brackets that are open at one place, of each kind
_TOKEN = re.compile(r"\\[()\[\]\\]|\\|[(\[)\]]|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|:", re.ASCII)
_BREAK = re.compile(r"\s*\bBREAK\b\s*")


def read_attention(text: str) -> list[tuple[str, float]]:
    """Return the pieces of a text with their weights, and BREAK where a new piece of 75 tokens begins.

    Raises PromptError for a weight that is no number and for brackets that nobody could close by hand.
    """
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for match in _TOKEN.finditer(text):
        token, weight = match.group(), match[1]
        if token.startswith("\\"):
            pieces.append((token[1:], 1.0))
        elif token in opened:
            opened[token].append(len(pieces))
            if len(opened[token]) > DEEPEST:
                raise PromptError(f"the prompt has more than {DEEPEST} open {token}; close them, or write \\{token} for the character")
        elif weight is not None and opened["("]:
            _multiply(pieces, opened["("].pop(), parse_number(weight, "a weight of the prompt"))
        elif token == ")" and opened["("]:
            _multiply(pieces, opened["("].pop(), ROUND)
        elif token == "]" and opened["["]:
            _multiply(pieces, opened["["].pop(), SQUARE)
        else:
            _add(pieces, token)
    for kind, factor in (("(", ROUND), ("[", SQUARE)):
        for start in opened[kind]:
            _multiply(pieces, start, factor)
    return _joined(pieces) or [("", 1.0)]


def _add(pieces: list[tuple[str, float]], text: str) -> None:
    for number, part in enumerate(_BREAK.split(text)):
        if number:
            pieces.append(BREAK)
        pieces.append((part, 1.0))


def _multiply(pieces: list[tuple[str, float]], start: int, factor: float) -> None:
    pieces[start:] = [piece if piece == BREAK else (piece[0], piece[1] * factor) for piece in pieces[start:]]


def _joined(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Join neighbours of one weight, so that their tokens are found as in one text."""
    found: list[tuple[str, float]] = []
    for text, weight in pieces:
        if found and found[-1][1] == weight and BREAK not in (found[-1], (text, weight)):
            found[-1] = (found[-1][0] + text, weight)
        else:
            found.append((text, weight))
    return found
