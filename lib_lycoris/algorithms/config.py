"""PEFT's adapter_config.json as an algorithm reads it: a value's type and size are checked when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import NetworkFormatError, readable

LONGEST_WORD = 200  # characters of a word, which is one of a few short ones
LARGEST = 1e12  # of any number in a config: products with it still are numbers in float32


class Config:
    """What a trainer wrote beside the tensors; empty where it wrote nothing. What is null there is as if it were not there."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values = {key: value for key, value in (values or {}).items() if value is not None}
        self._quoted: dict[str, str] = {}  # what a sentence says of a value: it may be long, and every module asks for it

    def __bool__(self) -> bool:
        return bool(self._values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def switched_on(self, start: str) -> list[str]:
        """Return the keys with this start that say something."""
        return [key for key in self._values if key.startswith(start) and self.says(key)]

    def says(self, key: str) -> bool:
        """Tell whether there is something else than nothing, false or an empty list."""
        return bool(self._values.get(key))

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a switch. Raises NetworkFormatError for what is none."""
        return bool(self._checked(key, default, (bool,), "true or false"))

    def number(self, key: str, default: float) -> float:
        """Return a number. Raises NetworkFormatError for what is none, or of no usual size."""
        value = self._checked(key, default, (int, float), "a number")
        if isinstance(value, bool) or not abs(value) <= LARGEST:  # NaN neither; a whole number may be too long for a float
            raise self._refused(key, value, "a number of a usual size")
        return float(value)

    def integer(self, key: str, default: int, least: int = 0, most: int = 1 << 31) -> int:
        """Return a whole number within bounds. Raises NetworkFormatError for what is none."""
        value = self._checked(key, default, (int,), "a whole number")
        if isinstance(value, bool) or not least <= value <= most:
            raise self._refused(key, value, f"a whole number from {least} to {most}")
        return int(value)

    def text(self, key: str, default: str = "") -> str:
        """Return a word; the empty one for what is true, false or a number, as PEFT's inits may be."""
        value = self._values.get(key, default)
        return value[:LONGEST_WORD] if isinstance(value, str) else ""

    def _checked(self, key: str, default: Any, kinds: tuple[type, ...], wanted: str) -> Any:
        value = self._values.get(key, default)
        if not isinstance(value, kinds):
            raise self._refused(key, value, wanted)
        return value

    def _refused(self, key: str, value: Any, wanted: str) -> NetworkFormatError:
        if key not in self._quoted:
            self._quoted[key] = readable(repr(value), 40)
        return NetworkFormatError(f"adapter_config.json says {key} = {self._quoted[key]}, but {wanted} is expected")


NO_CONFIG = Config()
