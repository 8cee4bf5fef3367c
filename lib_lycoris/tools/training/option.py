"""One option of a training: an option of a tool, the part of the page that it belongs to, and who says what it does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...records import dataclass
from ..declaration import Option

KOHYA = "https://github.com/kohya-ss/sd-scripts/blob/main/docs/train_network.md"
FLUX = "https://github.com/kohya-ss/sd-scripts/blob/main/docs/flux_train_network.md"
DATASETS = "https://github.com/kohya-ss/sd-scripts/blob/main/docs/config_README-en.md"
LYCORIS = "https://github.com/KohakuBlueleaf/LyCORIS/blob/main/docs/Network-Args.md"
OWN = "this project"
PAPER = "https://arxiv.org/abs/"


@dataclass(frozen=True)
class TrainingOption(Option):
    """An option with its place and its source."""

    section: str = ""
    source: str = KOHYA
    harmless: tuple[Any, ...] = ()  # of one that is refused: values that ask for nothing
    runtime: bool = False  # says how a run goes, not what comes of it: no part of the settings that a file keeps

    @property
    def takes_part(self) -> bool:
        """Tell whether it is obeyed: neither accepted without effect nor refused."""
        return not (self.ignored or self.refused)

    def asks_for_nothing(self, value: Any) -> bool:
        """Tell whether a value of an option that is refused is the one that sd-scripts has without it."""
        every = value if isinstance(value, list) else [value]
        return bool(self.refused) and all(one in (0, "0", "", *self.harmless) for one in every)


def in_its_case(option: TrainingOption, value: Any) -> Any:
    """Return a choice as it is spelled here: sd-scripts takes optimisers in capitals and small letters alike."""
    spelled = {str(choice).lower(): choice for choice in option.choices}
    return spelled.get(value.lower(), value) if isinstance(value, str) else value


def section(name: str, *options: TrainingOption) -> tuple[TrainingOption, ...]:
    """Return options as those of one section."""
    return tuple(replace(option, section=name) for option in options)
