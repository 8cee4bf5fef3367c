"""Resolves per-network strength options to a StrengthMap, with the same rules as prompt tags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import ToolError
from ...networks.reading.folder import file_of
from ...prompt import Presets, Schedule, StrengthMap, Tag, parse_weights_or_preset, resolve
from ...prompt.elements import parse_rule
from ...prompt.number import LARGEST
from ...records import dataclass
from ..declaration import as_list

NONE = ("", "-", "none")  # how "no block weights for this one" is written between those of others


@dataclass(frozen=True)
class NetworkOptions:
    """One network file and its strengths, as they were given."""

    path: Path
    te: float = 1.0
    te2: float = 1.0
    unet: float = 1.0
    lbw: str | None = None
    lbwe: str | None = None
    dyn: int | None = None

    @property
    def file(self) -> Path:
        """The file; of a folder the network in it."""
        return file_of(self.path)

    def strengths(self, family: str, seed: int = 0, presets: Presets | None = None) -> StrengthMap:
        """Return the strength of every parameter of a model of a family.

        Raises PromptError for weights that cannot be read, ToolError for a strength that no tag could have.
        """
        for value in (self.te, self.te2, self.unet):
            if not abs(value) <= LARGEST:
                raise ToolError(
                    f"a strength of {value:g} for {self.path.name} is too large; give a number such as 0.7, from -{LARGEST} to {LARGEST}"
                )
        elements = tuple(map(parse_rule, self.lbwe.split(","))) if self.lbwe and ":" in self.lbwe else self.lbwe
        tag = Tag.of(
            self.path.stem, *(Schedule.constant(value) for value in (self.te, self.unet, self.te2)),
            weights=parse_weights_or_preset(self.lbw.strip("[] ")) if self.lbw else None, elements=elements, text=self.path.name,
        )  # fmt: skip
        return resolve(tag, family, seed, presets or Presets.default())

    def as_json(self) -> dict[str, Any]:
        """Return the strengths for a recipe; what was not given is left out."""
        given = {"te": self.te, "te2": self.te2, "unet": self.unet, "lbw": self.lbw, "lbwe": self.lbwe, "dyn": self.dyn}
        return {key: value for key, value in given.items() if value is not None}


def asked(
    models: Sequence[Path | str] | Path | str,
    ratios: Sequence[float] | float | None = None,
    te: Sequence[float] | float | None = None,
    te2: Sequence[float] | float | None = None,
    unet: Sequence[float] | float | None = None,
    lbw: Sequence[str] | str | None = None,
    lbwe: Sequence[str] | str | None = None,
    dyn: Sequence[int] | int | None = None,
) -> list[NetworkOptions]:
    """Return what is asked of each network; te, unet default to the ratio (1), te2 to te. Raises ToolError on a wrong count."""
    paths = [Path(model) for model in as_list(models)]
    if not paths:
        raise ToolError("no network is given; name at least one file as `models`")
    given = {"ratios": ratios, "te": te, "te2": te2, "unet": unet, "lbw": lbw, "lbwe": lbwe, "dyn": dyn}
    columns = {name: _column(name, value, len(paths)) for name, value in given.items()}
    return [_one(path, {name: values[i] for name, values in columns.items()}) for i, path in enumerate(paths)]


def _column(name: str, value: Any, count: int) -> list[Any]:
    values = as_list(value)
    if values and len(values) != count:
        raise ToolError(f"`{name}` has {len(values)} values for {count} networks; give one for each, in the order of `models`")
    return values or [None] * count


def _one(path: Path, given: dict[str, Any]) -> NetworkOptions:
    ratio = 1.0 if given["ratios"] is None else float(given["ratios"])
    te = ratio if given["te"] is None else float(given["te"])
    te2 = te if given["te2"] is None else float(given["te2"])
    unet = ratio if given["unet"] is None else float(given["unet"])
    texts = {name: None if given[name] is None or str(given[name]).lower() in NONE else str(given[name]) for name in ("lbw", "lbwe")}
    return NetworkOptions(path, te, te2, unet, texts["lbw"], texts["lbwe"], given["dyn"] or None)
