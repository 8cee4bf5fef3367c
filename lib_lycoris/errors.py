"""What the package raises: one sentence that names the file or key, what was expected, what was found and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_NAME = 160  # characters of a key, or of anything else out of a file, in a sentence
LONGEST_WORD = 300  # a path may be longer than a key
LONGEST_CAUSE = 120  # of an error that is not ours
LONGEST_SENTENCE = 1200
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # how torch says it, of a GPU and of the machine
# controls, marks that turn the direction of text, and halves of surrogate pairs: nothing that a log or a page should be handed
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff9-\ufffb]")


def readable(text: object, longest: int = LONGEST_NAME) -> str:
    """Return something out of a file as a sentence may quote it: without control characters, and cut in the middle."""
    plain = _UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", str(text))
    if len(plain) <= longest:
        return plain
    half = (longest - 3) // 2
    return f"{plain[:half]}...{plain[-half:]}"


def kind_of(value: object) -> str:
    """Return what a value of JSON is, in words."""
    kinds = {dict: "a table", list: "a list", tuple: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "nothing" if value is None else f"a {type(value).__name__}")


def reason(error: Exception) -> str:
    """Return why a file could not be read, understood or written, as a sentence may quote it: nobody has to know Python's words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeError):
        return "it is no text in UTF-8"
    if isinstance(error, KeyError):
        return f"it has no {readable(error.args[0])}" if error.args else "something is missing in it"
    if isinstance(error, (TypeError, AttributeError, IndexError)):
        return "it has another form"
    return readable(" ".join(str(error).split()), LONGEST_CAUSE) or type(error).__name__


class LycorisError(Exception):
    """Base of every error that is meant to be shown to the user as it is."""

    def __init__(self, sentence: object = "", *more: object) -> None:
        super().__init__(_sentence(str(sentence)), *more)


class NetworkFormatError(LycorisError):
    """A network file, or one module of it, cannot be understood."""


class UnknownFamilyError(LycorisError, KeyError):
    """No base model family, or no variant of one, has this id."""

    __str__ = Exception.__str__  # a KeyError would put its sentence in quotes


class ModelMismatchError(LycorisError):
    """A network does not fit the model it is asked to change."""


class PromptError(LycorisError):
    """A tag in a prompt cannot be understood."""


class ToolError(LycorisError):
    """A tool cannot do what it was asked to do with these inputs."""


class HostError(LycorisError):
    """The program that we run in lacks something that we need."""


def says_no_memory(error: BaseException) -> bool:
    """Tell whether an error is the machine's memory, or a GPU's, that ran out."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY))


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn whatever else goes wrong while a file is read and understood into one sentence that names it.

    A file comes from a stranger and may lead a parser to any exception; each is meant to say itself what is wrong, this is the net below.
    """
    try:
        yield
    except LycorisError:
        raise
    except OSError as error:
        raise NetworkFormatError(f"{_name(path)} cannot be read: {error.strerror or type(error).__name__}") from error
    except Exception as error:  # raised again as a sentence, with what it was as its cause
        name = _name(path)
        if says_no_memory(error):
            raise NetworkFormatError(f"{name} needs more memory than there is; close other programs, or use a smaller file") from error
        said = readable(" ".join(str(error).split()), LONGEST_CAUSE)
        raise NetworkFormatError(f"{name} cannot be understood ({type(error).__name__}: {said}); download it again or report it") from error


def _name(path: str | Path) -> str:
    return Path(path).name or str(path)


def _sentence(text: str) -> str:
    """Return a sentence in which no name out of a file is longer than one can read, and nothing that cannot be shown."""
    whole = " ".join(readable(word, LONGEST_WORD) for word in text.split(" "))
    return whole if len(whole) <= LONGEST_SENTENCE else f"{whole[:LONGEST_SENTENCE]}..."
