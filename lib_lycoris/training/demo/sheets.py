"""Two sheets of images for the README: what the model draws, and what each network does at three strengths."""

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
PAPER, INK = (250, 250, 250), (30, 30, 30)
Cell = tuple[str, Image.Image]


def write(folder: Path) -> None:
    """Write demo-scenes.png and demo-networks.png."""
    folder.mkdir(parents=True, exist_ok=True)
    host = EmbeddedHost.open(device="cpu")
    scenes = [(prompt, draw(host, prompt, seed)) for seed, prompt in enumerate(PROMPTS)]
    sheet(scenes, columns=4).save(folder / "demo-scenes.png", optimize=True)
    tags = [f"{name}:{strength:g}" for name in RECIPES for strength in STRENGTHS]
    cells = [(tag, draw(host, f"{SCENE} <lyco:{tag}>", 1)) for tag in tags]
    sheet(cells, columns=2 * len(STRENGTHS)).save(folder / "demo-networks.png", optimize=True)


def draw(host: EmbeddedHost, prompt: str, seed: int) -> Image.Image:
    """Return one image at what suits the model."""
    return host.generate(GenerationRequest(prompt, seed=seed, width=host.size, height=host.size, cfg=host.cfg)).image


def sheet(cells: Sequence[Cell], columns: int) -> Image.Image:
    """Return images in rows, each with its words below."""
    side = cells[0][1].width * ZOOM
    font = ImageFont.load_default()
    wide, high = side + GAP, side + GAP + 3 * LINE
    rows = -(-len(cells) // columns)
    paper = Image.new("RGB", (columns * wide + GAP, rows * high + GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    for number, (words, picture) in enumerate(cells):
        x, y = GAP + number % columns * wide, GAP + number // columns * high
        paper.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (x, y))
        for row, line in enumerate(_lines(words, 22)):
            pen.text((x, y + side + 2 + row * (LINE - 3)), line, fill=INK, font=font)
    return paper


def _lines(words: str, width: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) >= width and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
