"""What the two parsers of strangers' bytes must do with any input: a file's header, and a prompt with its tags."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, deserialize

from lib_lycoris.errors import LycorisError
from lib_lycoris.networks.reading import header as reading
from lib_lycoris.networks.reading.table import MOST_AXES
from lib_lycoris.prompt import Presets

from . import prompts
from .judge import Unclean, check_sentence

ENTRY = b'"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}'
HEADERS = (
    b"{}", b"{%s}" % ENTRY, b'{"__metadata__":{"a":"b"},%s}' % ENTRY, b'{%s,"__metadata__":{"ss":"{}"}}' % ENTRY,
    b'{"b":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]},"c":{"dtype":"BOOL","shape":[],"data_offsets":[8,9]}}',
    b'{"deep":{"dtype":"U8","shape":[9,1,1,1,1,1,1,1,1],"data_offsets":[0,9]}}',  # more axes than any weight has
)  # fmt: skip
HEADER_WORDS = (
    '"__metadata__"', '"dtype"', '"shape"', '"data_offsets"', '"F32"', '"BF16"', '"U64"', '"F4"', "[0,8]", "null", "true", "1e400", "-1",
    "18446744073709551616", "\\ud800", "NaN", "{}", "[]", ENTRY.decode(),
)  # fmt: skip
DATA = bytes(9)  # behind a table
PRESETS = Presets(prompts.WEIGHTS, prompts.ELEMENTS)
Parser = Callable[[bytes], None]


def header(data: bytes) -> None:
    """Read a file of these bytes, or of this table and some data: what the format's own library reads is read, with the same meaning."""
    path = Path("case.safetensors")
    data = len(data).to_bytes(8, "little") + data + DATA if data.startswith(b"{") else data
    path.write_bytes(data)
    found = metadata = None
    try:
        found = reading.read_header(path)
    except LycorisError as error:
        check_sentence(str(error))
    try:
        metadata = reading.read_metadata(path)
    except LycorisError as error:
        check_sentence(str(error))
    if found and metadata != dict(found.metadata):
        raise Unclean(f"the metadata alone is {metadata}, with the tensors {found.metadata}")
    _compare(data, found)


def _compare(data: bytes, found: reading.Header | None) -> None:
    try:
        theirs = {name: tuple(entry["shape"]) for name, entry in deserialize(data)}
    except SafetensorError:
        return
    ours = {name: info.shape for name, info in found.tensors.items()} if found else None
    if ours != theirs and all(len(shape) <= MOST_AXES for shape in theirs.values()):
        raise Unclean(f"safetensors reads {theirs}, we read {ours}")


def tags(data: bytes) -> None:
    """Read a prompt and use every tag of it."""
    text = data.decode("utf-8", "replace")
    try:
        prompts.use_prompt(text, PRESETS, random.Random(len(text)), 20)
    except LycorisError as error:
        check_sentence(str(error))


# name -> parser, what its inputs begin as, and the words they are made of
PARSERS: dict[str, tuple[Parser, tuple[bytes, ...], tuple[str, ...]]] = {
    "header": (header, (*HEADERS, (len(ENTRY) + 2).to_bytes(8, "little") + b"{%s}" % ENTRY + DATA), HEADER_WORDS),
    "tags": (tags, tuple(text.encode() for text in prompts.TAGS), prompts.PIECES),
}
