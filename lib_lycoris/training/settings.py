"""Command line, TOML file, a network's own metadata -> the settings of one training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ToolError
from ..networks.reading.reader import open_file
from ..plain_json import parse_json
from ..tools.training.command import checked, given
from ..tools.training.options import BY_NAME
from ..tools.validation import typed
from .algorithms.arguments import without_folder
from .config_file import options_in
from .presets import USES

KEPT = "lycoris_training"  # the key of a network's metadata that holds its settings


class Settings:
    """The value of every option, by its name."""

    def __init__(self, values: Mapping[str, Any], named: frozenset[str] = frozenset()) -> None:
        self.values = dict(values)
        self.named = named  # those that the user gave

    def __getattr__(self, name: str) -> Any:
        """Return the value of an option."""
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def with_(self, **changes: Any) -> Settings:
        """Return the settings with other values."""
        return Settings({**self.values, **changes}, self.named)

    def kept(self) -> dict[str, Any]:
        """Return what a file keeps of them, as JSON has it: what differs from the defaults, paths as their last parts alone."""
        found = {}
        for name, value in self.values.items():
            option = BY_NAME[name]
            if not option.runtime and value is not None and value != option.default:
                found[name] = value.name if isinstance(value, Path) else value
        if self.network_args:
            found["network_args"] = [without_folder(word) for word in self.network_args]
        return found


def read_settings(argv: Sequence[str]) -> Settings:
    """Return the settings that a command line asks for. Raises ToolError with a sentence."""
    own = given(argv)
    asked: dict[str, Any] = {}
    if own.get("again"):
        asked.update(settings_of(Path(own["again"])))
    if own.get("config_file"):
        asked.update(options_in(Path(own["config_file"])))
    asked.update(own)
    if asked.get("preset_for"):
        asked = {**USES[typed(BY_NAME["preset_for"], asked["preset_for"])], **asked}
    if asked.get("masked_loss"):
        asked["alpha_mask"] = True
    settings = Settings(checked(asked), frozenset(asked))
    _check(settings)
    return settings


def settings_of(path: Path) -> dict[str, Any]:
    """Return the settings that a network file keeps of its training. Raises ToolError where it keeps none."""
    kept = open_file(path).metadata.get(KEPT)
    try:
        found = parse_json(kept or "")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ToolError(f"{path.name} does not say how it was trained; only files that were trained here do")
    foreign = [name for name in found if name not in BY_NAME]
    if foreign:
        raise ToolError(f"{path.name} was trained with options that are not known here: {', '.join(foreign)}")
    paths = {name: value for name, value in found.items() if BY_NAME[name].type is Path}
    return {name: value for name, value in found.items() if name not in paths}


def _check(settings: Settings) -> None:
    """Raise ToolError for settings that contradict each other."""
    sources = [name for name in ("train_data_dir", "dataset_config") if getattr(settings, name)]
    if not sources:
        raise ToolError("there are no images to train on; give --train_data_dir a folder, or --dataset_config a TOML file")
    if settings.network_train_unet_only and settings.network_train_text_encoder_only:
        raise ToolError("--network_train_unet_only and --network_train_text_encoder_only leave nothing to train; give one of them")
    if settings.min_snr_gamma and settings.debiased_estimation_loss:
        raise ToolError("--min_snr_gamma and --debiased_estimation_loss both weigh the steps; give one of them")
    if not 0 <= settings.min_timestep < settings.max_timestep <= 1000:
        raise ToolError("--min_timestep and --max_timestep take steps from 0 to 1000, the first below the second")
    if settings.dim_from_weights and not settings.network_weights:
        raise ToolError("--dim_from_weights needs --network_weights, the file to take dims and alphas from")
