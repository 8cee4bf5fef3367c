"""Images for the README and docs: what the model draws, and what networks do at several strengths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ...hosts.embedded.host import EmbeddedHost
from ...hosts.protocol import GenerationRequest
from .recipes import RECIPES

ZOOM, GAP, LINE = 2, 8, 16  # of an image's pixels on a sheet; pixels between images; of a line of text
PROMPTS = (
    "a red circle on the left", "a blue star on the right, yellow background", "a big green tree",
    "a small yellow heart at the top, purple background", "a red house at the bottom", "a big orange triangle, black background",
    "a pink square in the top left corner", "a big white star, blue background",
    "a red circle on the left and a blue square on the right", "a yellow star at the top, a green house at the bottom",
    "a purple heart on the left, an orange tree on the right", "a black circle at the top, a red triangle at the bottom",
)  # fmt: skip
SCENE = "a red circle on the left and a blue square on the right, yellow background"
STRENGTHS = (0.0, 0.5, 1.0)
SHOWN = ("demo-lokr", "demo-loha", "demo-oft")  # in the strip and in the animation
FRAMES = tuple(step / 10 for step in range(11))
MILLISECONDS, COLOURS = 180, 96  # of a frame
LETTERS = 22  # of a line below an image
PAPER, INK = (250, 250, 250), (30, 30, 30)
Cell = tuple[str, Image.Image]


def write(folder: Path) -> None:
    """Write demo-scenes.png, demo-networks.png, demo-strip.png and demo-strength.gif."""
    folder.mkdir(parents=True, exist_ok=True)
    host = EmbeddedHost.open(device="cpu")
    scenes = [(prompt, draw(host, prompt, seed)) for seed, prompt in enumerate(PROMPTS)]
    sheet(scenes, columns=4).save(folder / "demo-scenes.png", optimize=True)
    tags = [f"{name}:{strength:g}" for name in RECIPES for strength in STRENGTHS]
    sheet(_cells(host, tags), columns=2 * len(STRENGTHS)).save(folder / "demo-networks.png", optimize=True)
    shown = [f"{name}:{strength:g}" for name in SHOWN for strength in STRENGTHS]
    sheet(_cells(host, shown), columns=len(shown)).save(folder / "demo-strip.png", optimize=True)
    frames = [sheet(_cells(host, [f"{name}:{strength:g}" for name in SHOWN]), columns=len(SHOWN)) for strength in FRAMES]
    there_and_back = [frame.quantize(COLOURS) for frame in (*frames, *frames[-2:0:-1])]
    there_and_back[0].save(
        folder / "demo-strength.gif", save_all=True, append_images=there_and_back[1:], duration=MILLISECONDS, loop=0, optimize=True
    )


def _cells(host: EmbeddedHost, tags: Sequence[str]) -> list[Cell]:
    """Return the one scene with each of these tags."""
    return [(tag, draw(host, f"{SCENE} <lyco:{tag}>", 1)) for tag in tags]


def draw(host: EmbeddedHost, prompt: str, seed: int) -> Image.Image:
    """Return one image at what suits the model."""
    image: Image.Image = host.generate(GenerationRequest(prompt, seed=seed, width=host.size, height=host.size, cfg=host.cfg)).image
    return image


def sheet(cells: Sequence[Cell], columns: int) -> Image.Image:
    """Return images in rows, each with its words below."""
    side = cells[0][1].width * ZOOM
    font = ImageFont.load_default()
    lines = max(len(_lines(words, LETTERS)) for words, _ in cells)
    wide, high = side + GAP, side + GAP + lines * LINE
    rows = -(-len(cells) // columns)
    paper = Image.new("RGB", (columns * wide + GAP, rows * high + GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    for number, (words, picture) in enumerate(cells):
        x, y = GAP + number % columns * wide, GAP + number // columns * high
        paper.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (x, y))
        for row, line in enumerate(_lines(words, LETTERS)):
            pen.text((x, y + side + 2 + row * (LINE - 3)), line, fill=INK, font=font)
    return paper


def _lines(words: str, width: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) >= width and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
