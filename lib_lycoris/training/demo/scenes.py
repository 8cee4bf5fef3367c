"""Random scenes with their captions, and how a scene is drawn: everything follows from the random generator handed in."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from ...models.demo_words import COLOURS, SHAPES
from ...records import dataclass

SIDE, FINE = 64, 4  # pixels of an image; how much larger it is drawn before it is scaled down, for smooth edges
RGB = {
    "red": (224, 32, 32), "orange": (255, 140, 0), "yellow": (255, 225, 40), "green": (30, 160, 50), "blue": (40, 80, 225),
    "purple": (130, 40, 170), "pink": (255, 150, 190), "white": (255, 255, 255), "gray": (140, 140, 140), "black": (15, 15, 15),
}  # fmt: skip
RADIUS = {"small": 8.0, "": 12.5, "big": 18.0}  # pixels
PLACES: dict[str, tuple[float, float]] = {  # the phrase of a caption -> the centre, as fractions of the side
    "in the middle": (0.5, 0.5), "on the left": (0.27, 0.5), "on the right": (0.73, 0.5), "at the top": (0.5, 0.27),
    "at the bottom": (0.5, 0.73), "in the top left corner": (0.27, 0.27), "in the top right corner": (0.73, 0.27),
    "in the bottom left corner": (0.27, 0.73), "in the bottom right corner": (0.73, 0.73),
}  # fmt: skip
MIDDLE = "in the middle"
PAIRS = (("on the left", "on the right"), ("at the top", "at the bottom"))
TRUNK, ROOF, DOOR = (120, 75, 35), (95, 55, 40), (250, 235, 190)
Colour = tuple[int, int, int]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Item:
    """One thing in a scene; x and y are its centre in pixels."""

    shape: str
    colour: str
    size: str
    place: str
    x: float
    y: float

    @property
    def radius(self) -> float:
        """Half its width, in pixels."""
        return RADIUS[self.size]


@dataclass(frozen=True)
class Scene:
    """What an image shows, and what a caption says of it."""

    items: tuple[Item, ...]
    background: str
    caption: str


def random_scene(rng: Random) -> Scene:
    """Return a scene of one or two things; what its caption leaves out is as a rule says: in the middle, on white."""
    background = rng.choice(COLOURS) if rng.random() < 0.8 else "white"
    if rng.random() < 0.35:
        pair = rng.choice(PAIRS)
        places = list(pair if rng.random() < 0.5 else pair[::-1])
        sizes = [rng.choice(("", "", "small")) for _ in places]
    else:
        places = [rng.choice(list(PLACES)) if rng.random() < 0.8 else MIDDLE]
        sizes = [rng.choice(("", "", "small", "big"))]
    colours = [rng.choice([colour for colour in COLOURS if colour != background]) for _ in places]
    items = tuple(_item(rng, colour, size, place) for colour, size, place in zip(colours, sizes, places))
    return Scene(items, background, _caption(rng, items, background))


def _item(rng: Random, colour: str, size: str, place: str) -> Item:
    x, y = (SIDE * part + rng.uniform(-1.5, 1.5) for part in PLACES[place])
    return Item(rng.choice(SHAPES), colour, size, place, x, y)


def _caption(rng: Random, items: tuple[Item, ...], background: str) -> str:
    parts = [_phrase(rng, item, len(items) > 1) for item in items]
    text = rng.choice((", ", " and ")).join(parts)
    if background != "white" or rng.random() < 0.5:
        text += rng.choice((f", {background} background", f" on a {background} background", f", {background} background"))
    if rng.random() < 0.1:
        text = "an image of " + text
    if rng.random() < 0.15:  # words that say nothing, so that those are no surprise later
        letters = "".join(rng.choice("abcdefghijklmnoprstuvw") for _ in range(rng.randint(2, 8)))
        text = f"{text}, {letters}" if rng.random() < 0.7 else f"{letters} {text}"
    return text


def _phrase(rng: Random, item: Item, placed: bool) -> str:
    words = ["a", item.size, item.colour, item.shape]
    if placed or item.place != MIDDLE or rng.random() < 0.5:
        words.append(item.place)
    return " ".join(word for word in words if word)


Draw = Callable[[ImageDraw.ImageDraw, Item], None]


def render(scene: Scene, draw: Draw | None = None, background: Colour | Image.Image | None = None) -> Image.Image:
    """Draw a scene at ``SIDE`` pixels; ``draw`` puts one thing on it in another way, ``background`` is a colour or an image."""
    fine = (SIDE * FINE, SIDE * FINE)
    if isinstance(background, Image.Image):
        canvas = background.resize(fine, Image.Resampling.NEAREST)
    else:
        canvas = Image.new("RGB", fine, background or RGB[scene.background])
    for item in scene.items:
        (draw or solid)(ImageDraw.Draw(canvas), item)
    return canvas.resize((SIDE, SIDE), Image.Resampling.BOX)


def solid(pen: ImageDraw.ImageDraw, item: Item) -> None:
    """Draw a thing in its colour."""
    figure(pen, item, RGB[item.colour])


def figure(pen: ImageDraw.ImageDraw, item: Item, colour: Colour, plain: bool = False, share: float = 1.0) -> None:
    """Draw a thing in a colour, at a share of its size; ``plain``: the trunk, the roof and the door have no colours of their own."""
    x, y, r = item.x * FINE, item.y * FINE, item.radius * FINE * share
    if item.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif item.shape == "square":
        pen.rectangle((x - 0.88 * r, y - 0.88 * r, x + 0.88 * r, y + 0.88 * r), fill=colour)
    elif item.shape == "house":
        pen.rectangle((x - 0.8 * r, y - 0.15 * r, x + 0.8 * r, y + r), fill=colour)
        pen.polygon([(x - 1.1 * r, y - 0.1 * r), (x, y - 1.1 * r), (x + 1.1 * r, y - 0.1 * r)], fill=colour if plain else ROOF)
        pen.rectangle((x - 0.22 * r, y + 0.35 * r, x + 0.22 * r, y + r), fill=colour if plain else DOOR)
    elif item.shape == "tree":
        pen.rectangle((x - 0.2 * r, y + 0.3 * r, x + 0.2 * r, y + 1.1 * r), fill=colour if plain else TRUNK)
        pen.ellipse((x - 0.8 * r, y - 1.1 * r, x + 0.8 * r, y + 0.5 * r), fill=colour)
    else:
        pen.polygon(corners(item.shape, x, y, r), fill=colour)


def corners(shape: str, x: float, y: float, r: float) -> Points:
    """Return the outline of a shape without curves of its own."""
    if shape == "triangle":
        return [(x, y - 1.05 * r), (x + 1.1 * r, y + 0.85 * r), (x - 1.1 * r, y + 0.85 * r)]
    if shape == "star":
        lengths = [1.2 * r if point % 2 == 0 else 0.5 * r for point in range(10)]
        return [(x + far * sin(pi * n / 5), y - far * cos(pi * n / 5)) for n, far in enumerate(lengths)]
    turns = [2 * pi * step / 60 for step in range(60)]
    return [(x + r * sin(t) ** 3 * 1.1, y - r / 15 * (13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t))) for t in turns]


def pixels(pictures: list[Image.Image]) -> np.ndarray:
    """Return images as (count, 3, side, side) bytes."""
    return np.stack([np.asarray(picture.convert("RGB")).transpose(2, 0, 1) for picture in pictures])
