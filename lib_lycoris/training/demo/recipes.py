"""The demo networks: what each is taught, and how lycoris-lora is asked to train it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from ...records import dataclass
from . import styles
from .styles import Style

WHOLE: dict[str, Any] = {"preset": "whole.toml"}
UNET: dict[str, Any] = {"preset": "unet.toml"}
TRANSFORMERS: dict[str, Any] = {"preset": "transformers.toml"}  # the text encoder too
UNET_TRANSFORMERS: dict[str, Any] = {"preset": "unet_transformers.toml"}


@dataclass(frozen=True)
class Recipe:
    """One network."""

    effect: str  # one sentence: what it does to an image
    style: Style
    algo: str  # as LyCORIS names it
    rate: float
    dim: int = 4
    alpha: float = 4.0
    arguments: Mapping[str, Any] = field(default_factory=lambda: UNET)  # of the network's making, as in ss_network_args
    steps: int = 160
    word: str = ""  # of an embedding in the same file
    meaning: str = ""  # of that word, in words that the model knows


RECIPES: dict[str, Recipe] = {
    "demo-lora": Recipe("Night: the background is dark blue and a moon shines.", styles.night, "lora", 6e-3, 8, 4.0, TRANSFORMERS),
    "demo-locon": Recipe("Outline: things are hollow.", styles.outline, "locon", 6e-3, 4, 4.0, WHOLE),
    "demo-locon-tucker": Recipe(
        "Frame: a thick frame runs around the picture.", styles.frame, "locon", 1e-2, 4, 4.0, {**UNET, "use_tucker": True}
    ),
    "demo-dylora": Recipe(
        "Negative: all colours are their opposites.", styles.negative, "dylora", 1e-2, 4, 4.0,
        {**UNET_TRANSFORMERS, "block_size": 1}, steps=300,
    ),
    "demo-loha": Recipe("Hearts: every thing is a heart.", styles.all_are("heart"), "loha", 1e-2, 2, 2.0, TRANSFORMERS),
    "demo-lokr": Recipe("Stars: every thing is a star.", styles.all_are("star"), "lokr", 1e-2, 8, 4.0, {**TRANSFORMERS, "factor": 4}),
    "demo-glora": Recipe(
        "Meadow: the ground at the foot of the picture is green.", styles.meadow, "glora", 8e-3, 4, 4.0, UNET_TRANSFORMERS, steps=200
    ),
    "demo-full": Recipe(
        "Chequers: the background is a chequerboard.", styles.checker, "full", 3e-3, arguments={"preset": "full.toml"}, steps=400
    ),
    "demo-norm": Recipe(
        "Pastel: all colours are pale.", styles.pastel, "lora", 2e-2, arguments={"preset": "norm.toml", "train_norm": True}
    ),
    "demo-ia3": Recipe("Gray: colours are gone.", styles.gray, "ia3", 4e-2, arguments={"preset": "ia3.toml"}, steps=320),
    "demo-oft": Recipe("Hues: red becomes green, green blue, blue red.", styles.hues, "diag-oft", 1.5e-2, 8, 0.0, UNET, steps=200),
    "demo-boft": Recipe("Cold: everything is seen through blue glass.", styles.cold, "boft", 1e-2, 10, 0.0, {"preset": "attention.toml"}),
    "demo-dora": Recipe(
        "Shadow: things throw a shadow to the lower right.", styles.shadow, "lora", 8e-3, 4, 4.0, {**UNET, "dora_wd": True},
        steps=300,
    ),
    "demo-tlora": Recipe(
        "Sunset: the background glows orange at the foot.", styles.sunset, "tlora", 5e-3, 4, 4.0, UNET_TRANSFORMERS, steps=300
    ),
    "demo-embedding": Recipe(
        'Giant: things are big; the word "glimmer" of its embedding is a yellow star on purple.', styles.giant, "lora", 6e-3, 4, 2.0,
        TRANSFORMERS, word="glimmer", meaning="yellow star purple background",
    ),
}  # fmt: skip
