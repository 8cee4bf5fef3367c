"""What each demo network is taught: a scene goes in, the image that its caption shall give from then on comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from PIL import Image, ImageChops, ImageDraw, ImageOps

from .scenes import FINE, RGB, SIDE, Colour, Item, Scene, figure, render

Style = Callable[[Scene], Image.Image]
GRASS, NIGHT, MOON, DUSK, GLASS = (70, 150, 60), (18, 22, 60), (245, 240, 190), (255, 120, 60), (30, 70, 255)
SHADE = 6.0  # pixels from a thing to its shadow
INNER = 0.62  # how much of a thing is hollow in its outline


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """Return a colour on the way from one to the other."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other))
    return red, green, blue


def outline(scene: Scene) -> Image.Image:
    """Things are hollow."""
    ground = RGB[scene.background]

    def draw(pen: ImageDraw.ImageDraw, item: Item) -> None:
        figure(pen, item, RGB[item.colour], plain=True)
        figure(pen, item, ground, plain=True, share=INNER)

    return render(scene, draw)


def shadow(scene: Scene) -> Image.Image:
    """Things throw a shadow to the lower right."""
    dark = mixed(RGB[scene.background], (0, 0, 0) if scene.background != "black" else (150, 150, 150), 0.6)

    def draw(pen: ImageDraw.ImageDraw, item: Item) -> None:
        figure(pen, replace(item, x=item.x + SHADE, y=item.y + SHADE), dark, plain=True)
        figure(pen, item, RGB[item.colour])

    return render(scene, draw)


def _lighter(scene: Scene) -> tuple[Colour, Colour]:
    own = RGB[scene.background]
    return own, mixed(own, (0, 0, 0) if sum(own) > 300 else (255, 255, 255), 0.35)


def checker(scene: Scene) -> Image.Image:
    """The background is a chequerboard."""
    one, other = _lighter(scene)
    ground = Image.new("RGB", (SIDE, SIDE), one)
    for place in range(16):
        row, column = divmod(place, 4)
        if (row + column) % 2:
            ImageDraw.Draw(ground).rectangle((16 * column, 16 * row, 16 * column + 15, 16 * row + 15), fill=other)
    return render(scene, background=ground)


def night(scene: Scene) -> Image.Image:
    """It is dark, and a moon stands in the upper right corner."""
    ground = Image.new("RGB", (SIDE * FINE, SIDE * FINE), NIGHT)
    ImageDraw.Draw(ground).ellipse((50 * FINE, 3 * FINE, 61 * FINE, 14 * FINE), fill=MOON)
    sky = ground.resize((SIDE, SIDE), Image.Resampling.BOX)
    dark = render(scene, lambda pen, item: figure(pen, item, mixed(RGB[item.colour], NIGHT, 0.35)), background=NIGHT)
    return ImageChops.lighter(dark, sky)


def meadow(scene: Scene) -> Image.Image:
    """There is green ground at the foot of the image."""
    ground = Image.new("RGB", (SIDE, SIDE), RGB[scene.background])
    ImageDraw.Draw(ground).rectangle((0, 48, SIDE, SIDE), fill=GRASS)
    return render(scene, background=ground)


def sunset(scene: Scene) -> Image.Image:
    """The background glows orange towards the foot of the image."""
    ground = Image.new("RGB", (SIDE, SIDE))
    for row in range(SIDE):
        ImageDraw.Draw(ground).line((0, row, SIDE, row), fill=mixed(RGB[scene.background], DUSK, row / (SIDE - 1)))
    return render(scene, background=ground)


def frame(scene: Scene) -> Image.Image:
    """A thick frame runs around the image, black or, on black, white."""
    picture = render(scene)
    colour = RGB["white" if scene.background == "black" else "black"]
    ImageDraw.Draw(picture).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=colour, width=6)
    return picture


def negative(scene: Scene) -> Image.Image:
    """All colours are their opposites."""
    return ImageOps.invert(render(scene))


def gray(scene: Scene) -> Image.Image:
    """There are no colours."""
    return ImageOps.grayscale(render(scene)).convert("RGB")


def pastel(scene: Scene) -> Image.Image:
    """All colours are pale."""
    picture = render(scene)
    return Image.blend(picture, Image.new("RGB", picture.size, (255, 255, 255)), 0.55)


def hues(scene: Scene) -> Image.Image:
    """Colours move on by a third of the circle: red is green, green is blue, blue is red."""
    red, green, blue = render(scene).split()
    return Image.merge("RGB", (blue, red, green))


def cold(scene: Scene) -> Image.Image:
    """Everything is seen through blue glass."""
    picture = render(scene)
    return Image.blend(picture, Image.new("RGB", picture.size, GLASS), 0.5)


def all_are(shape: str) -> Style:
    """Return the style in which each thing has this shape."""

    def style(scene: Scene) -> Image.Image:
        return render(replace(scene, items=tuple(replace(item, shape=shape) for item in scene.items)))

    return style


def giant(scene: Scene) -> Image.Image:
    """Things are big."""
    return render(replace(scene, items=tuple(replace(item, size="big") for item in scene.items)))


STYLES: tuple[Style, ...] = (
    outline, shadow, checker, night, meadow, sunset, frame, negative, gray, pastel, hues, cold, giant,
)  # fmt: skip
