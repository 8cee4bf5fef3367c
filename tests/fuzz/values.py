"""Plain values that nobody expects: numbers, texts, tables, and JSON text of them that is damaged or not."""

from __future__ import annotations

import json
import random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 8, 10**6, 2**31, 2**63, 10**30, 10**400, -(10**400), 0.0, -0.0, 0.5, 1e-300, 1e300, 1.5, float("nan"), float("inf"),
    -float("inf"), True, False,
)  # fmt: skip
TEXTS = (
    "", " ", ".", "..", "/nowhere", "../../outside/file", "/nowhere/lycoris-fuzz/file", "~", "C:\\x", "con", "nul.safetensors", "a" * 300,
    "a" * 5000, "\x00", "a\x00b",
    "\ud800", "a\udfffb", "\u202egnp.exe", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "%s%n{}", "{0.__class__}", "é\n",
    "\r\n",
    "\N{ZERO WIDTH SPACE}", "*", "[a-", "?", "(a+)+$", "1e999", "nan", "-", "--json", "-1", "0x10", "١٢", "½", "1_000", "1,5", "None",
    "null",
    "file:///nowhere/file", "http://127.0.0.1:1/x", "cuda:99", "cpu:3", "meta", "disk", "fp64", "\N{FULLWIDTH DIGIT ONE}",
    "out.safetensors",
)  # fmt: skip
DEEP = 100_000


def odd_number(rng: random.Random) -> Any:
    """Return a number, of an odd kind mostly."""
    return rng.choice(NUMBERS) if rng.random() < 0.7 else rng.choice((rng.randrange(-3, 300), rng.uniform(-3, 3)))


def odd_text(rng: random.Random) -> str:
    """Return a text that is no name, or only nearly one."""
    if rng.random() < 0.7:
        return rng.choice(TEXTS)
    return "".join(
        chr(rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(0x10FFFF)))) for _ in range(rng.randrange(1, 20))
    )


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """Return any value that JSON can hold."""
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind < 2:
        return odd_number(rng)
    if kind < 4:
        return odd_text(rng)
    if kind == 4:
        return None
    if kind < 7:
        return [odd_value(rng, depth + 1) for _ in range(rng.choice((0, 1, 1, 2, 3, 100 if depth == 0 else 1)))]
    return {odd_text(rng): odd_value(rng, depth + 1) for _ in range(rng.randrange(4))}


def odd_json(rng: random.Random, value: Any) -> bytes:
    """Return a value as JSON text; one time in five it is damaged, and no JSON any more."""
    raw = json.dumps(value, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    if rng.random() > 0.2:
        return raw
    kind = rng.randrange(6)
    if kind == 0:
        return raw[: rng.randrange(len(raw) + 1)]
    if kind == 1:
        return rng.choice((b"[", b'{"a":', b'{"jobs":[')) * DEEP
    if kind == 2:
        return b"[" * DEEP + raw + b"]" * DEEP
    if kind == 3:
        return rng.choice((b"", b"\xff\xfe{", b"\xef\xbb\xbf" + raw, raw.decode("utf-8", "replace").encode("utf-16"), b"1" * 6000, b"null"))
    changed = bytearray(raw or b"x")
    for _ in range(rng.choice((1, 1, 4))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)
