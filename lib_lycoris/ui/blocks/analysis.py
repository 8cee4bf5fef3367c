"""Which block does what, found out by generating: one image without each block, or with it alone, and how far it is from the rest."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Event
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...errors import HostError, PromptError
from ...hosts.protocol import GenerationProgress, GenerationRequest, Generator
from ...prompt.elements import expand_blocks
from ...records import dataclass
from ...wording import remaining
from .values import BlockValues, tag_of

FULL, OFF = "all blocks", "every block off"
CELL = 256  # pixels of the longer side of an image in the grid
ACROSS = 3  # cells of the grid beside each other, each an image and its heat map
LINE = 18  # pixels of a line of text in it
# black, violet, red, orange, pale yellow: darker is less, and it stays so without colours
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], dtype=np.float32)
Tell = Callable[[float, str], None]  # share of all images, words


@dataclass(frozen=True)
class Setup:
    """What is asked: the image, the network with its sliders, and the blocks that are tried."""

    request: GenerationRequest  # the prompt may hold a tag of the network, which is left out; the seed is a fixed one
    name: str  # of the network
    sliders: BlockValues
    strengths: tuple[float | None, ...]  # te, unet, start, stop as in the tag
    alone: bool  # an image with each block alone, instead of without it
    blocks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Trial:
    """The image of one block, and how far it is from the one that it is compared with."""

    block: str
    image: Any  # PIL.Image.Image
    map: Any  # (height, width) float32: difference of each pixel, mean of its channels, 0 to 255

    @property
    def amount(self) -> float:
        """The mean absolute difference, 0 to 255."""
        return float(self.map.mean())


@dataclass(frozen=True, eq=False)
class Outcome:
    """All images so far; ``compared`` is the one that the others are compared with."""

    full: Any
    compared: Any
    trials: tuple[Trial, ...]
    problems: tuple[str, ...]

    @property
    def largest(self) -> float:
        """The largest difference of a pixel, for one scale of all heat maps."""
        return max((float(trial.map.max()) for trial in self.trials), default=0.0)

    @property
    def ranking(self) -> list[Trial]:
        """The blocks, the one that matters most first."""
        return sorted(self.trials, key=lambda trial: -trial.amount)


def chosen_blocks(text: str, sliders: BlockValues) -> tuple[str, ...]:
    """Return the blocks that a text such as `IN04-IN08 M00` names, empty: those that the network changes. Raises PromptError."""
    if not text.strip():
        found = tuple(block for block in sliders.blocks if sliders.is_touched(block))
    else:
        typed = text.replace(",", " ").upper().split()
        unknown = [word for word in typed if "-" not in word and word not in (*sliders.blocks, "NOT", "MID")]
        inverted, words = expand_blocks(" ".join(typed), sliders.layout.family)
        if unknown:
            raise PromptError(f'"{unknown[0]}" is no block of this layout; it has {", ".join(sliders.blocks)}')
        found = tuple(block for block in sliders.blocks if (block in words) != inverted)
    if not found:
        raise PromptError("no block of this layout is left to try; choose another layout, or empty the field of blocks")
    return found


def without_tag(prompt: str, name: str) -> str:
    """Return a prompt without the tags of one network."""
    kept = re.sub(r"<lyco:([^:>]+)(?::[^>]*)?>", lambda tag: "" if tag[1].strip() == name else tag[0], prompt)
    return " ".join(kept.split())


def prompts(setup: Setup) -> list[tuple[str, str]]:
    """Return (what it shows, prompt) of every image, in order."""
    text, sliders = without_tag(setup.request.prompt, setup.name), setup.sliders

    def prompt(weights: BlockValues) -> str:
        return f"{text} {tag_of(weights, setup.name, None, *setup.strengths)}".strip()

    off = sliders.all_at(0)
    found = [(FULL, prompt(sliders)), *([(OFF, prompt(off))] if setup.alone else [])]
    values = dict(zip(sliders.blocks, sliders.shown))
    for block in setup.blocks:
        start = dict.fromkeys(values, 0.0) if setup.alone else dict(values)
        start[block] = values[block] if setup.alone else 0.0
        found.append((block, prompt(sliders.with_values([start[name] for name in sliders.blocks]))))
    return found


def analyse(generator: Generator, setup: Setup, tell: Tell, cancel: Event) -> Iterator[Outcome]:
    """Generate all images and yield what is known after each block.

    Raises HostError for an image that cannot be made or that the network is not in, Cancelled of the host's protocol if ``cancel`` is set.
    """
    todo = prompts(setup)
    outcome: Outcome | None = None
    clock = Clock(len(todo), tell)
    for label, prompt in todo:
        picture = generator.generate(replace(setup.request, prompt=prompt), clock.watch(label), cancel)
        clock.done += 1
        if outcome is None:
            if picture.problems and not picture.applied:
                raise HostError(" ".join(picture.problems))
            outcome = Outcome(picture.image, picture.image, (), tuple(picture.problems))
        elif label == OFF:
            outcome = replace(outcome, compared=picture.image)
        else:
            trial = Trial(label, picture.image, difference(picture.image, outcome.compared))
            outcome = replace(outcome, trials=(*outcome.trials, trial))
            yield outcome


class Clock:
    """Tells how far all images together are."""

    def __init__(self, total: int, tell: Tell) -> None:
        self.total, self.done, self._tell = total, 0, tell
        self._began = time.monotonic()

    def watch(self, label: str) -> Callable[[GenerationProgress], None]:
        """Return what the generator tells its steps to while it makes one image."""

        def step(progress: GenerationProgress) -> None:
            share = (self.done + progress.step / max(progress.steps, 1)) / self.total
            passed = time.monotonic() - self._began
            left = f" - {remaining(passed * (1 - share) / share)}" if share > 0 else ""
            self._tell(share, f"image {self.done + 1} of {self.total} ({label}), step {progress.step} of {progress.steps}{left}")

        return step


def difference(one: Any, other: Any) -> Any:
    """Return how far two images of one size are from each other: (height, width) float32, 0 to 255."""
    first, second = (np.asarray(image.convert("RGB"), dtype=np.float32) for image in (one, other))
    return np.abs(first - second).mean(axis=2)


def heat_map(difference: Any, largest: float) -> Any:
    """Return a difference as an image; ``largest`` is what the brightest colour stands for."""
    place = np.clip(difference / max(largest, 1e-6), 0, 1) * (len(HEAT) - 1)
    channels = [np.interp(place, np.arange(len(HEAT)), HEAT[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=2).round().astype(np.uint8), "RGB")


def side_by_side(trial: Trial, largest: float) -> Any:
    """Return a block's image with its heat map beside it."""
    width, height = trial.image.size
    both = Image.new("RGB", (2 * width, height))
    both.paste(trial.image.convert("RGB"), (0, 0))
    both.paste(heat_map(trial.map, largest), (width, 0))
    return both


def caption(trial: Trial, alone: bool) -> str:
    """Return one line on a block's image."""
    return f"{trial.block} {'alone' if alone else 'left out'}: {trial.amount:.2f} of 255"


def first_cell(outcome: Outcome, alone: bool) -> tuple[Any, str]:
    """Return what the blocks' images are to be seen against, as wide as theirs, and its caption."""
    both = Image.new("RGB", (2 * outcome.full.width, outcome.full.height), "white")
    both.paste(outcome.full.convert("RGB"), (0, 0))
    if not alone:
        return both, FULL
    both.paste(outcome.compared.convert("RGB"), (outcome.full.width, 0))
    return both, f"{FULL} | {OFF}"


def grid(outcome: Outcome, alone: bool) -> Any:
    """Return one image of all: the full one and what the others are compared with, then every block in the order of the ranking."""
    cells = [first_cell(outcome, alone)]
    cells += [(side_by_side(trial, outcome.largest), caption(trial, alone)) for trial in outcome.ranking]
    return _sheet(cells)


def _sheet(cells: Sequence[tuple[Any, str]]) -> Any:
    first = cells[0][0]
    scale = min(1.0, CELL / max(first.width / 2, first.height))
    width, height = (max(1, round(side * scale)) for side in first.size)
    down = -(-len(cells) // ACROSS)
    across = min(ACROSS, len(cells))
    sheet = Image.new("RGB", (across * (width + 8) - 8, down * (height + LINE + 6)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (image, text) in enumerate(cells):
        x, y = index % ACROSS * (width + 8), index // ACROSS * (height + LINE + 6)
        pen.text((x + 2, y + 3), text, fill="black")
        sheet.paste(image.resize((width, height)), (x, y + LINE))
    return sheet
