"""Images while training, by sd-scripts' lines of prompts, on one sheet with the steps."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ToolError, reason
from ...records import dataclass

if TYPE_CHECKING:
    from PIL import Image

    from ..setup import Run

FLAG = re.compile(r"\s--(?=\w+\s)")
LINE = 14  # pixels of a line of text


@dataclass(frozen=True)
class Prompt:
    """One line: what to draw, and how."""

    text: str
    negative: str = ""
    width: int | None = None
    height: int | None = None
    seed: int = 1
    guidance: float | None = None
    steps: int = 20


KINDS = {
    "n": ("negative", str),
    "w": ("width", int),
    "h": ("height", int),
    "d": ("seed", int),
    "l": ("guidance", float),
    "s": ("steps", int),
}


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts of a text file, a line each; lines that begin with # say nothing. Raises ToolError naming the line."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(f"{path} cannot be read as text: {reason(error)}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.strip().startswith("#"):
            try:
                found.append(read_prompt(line.strip()))
            except ValueError as error:
                raise ToolError(f"{path.name}, line {number}: {error}") from error
    return found


def read_prompt(line: str) -> Prompt:
    """Return one prompt. Raises ValueError with the reason."""
    text, *flags = FLAG.split(line)
    prompt = Prompt(text.strip())
    for flag in flags:
        name, _, value = flag.strip().partition(" ")
        if name not in KINDS:
            raise ValueError(f"--{name} is none of {', '.join(f'--{known}' for known in KINDS)}")
        field, kind = KINDS[name]
        prompt = replace(prompt, **{field: kind(value.strip())})
    return prompt


class Samples:
    """Makes the images of a run with the model as it is trained."""

    def __init__(self, run: Run) -> None:
        self.run = run
        path = run.settings.sample_prompts
        self.prompts = read_prompts(path) if path else []
        self.folder = run.folder / "samples"

    def forget(self) -> None:
        """Remove the images of a run before: they would be taken for this one's."""
        for path in self.folder.glob("*.png"):
            path.unlink()

    def make(self, step: int) -> list[Path]:
        """Write one image for each prompt, and the sheet; return the paths."""
        images = [self.run.model.image(prompt, self.run.settings.sample_sampler) for prompt in self.prompts]
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for number, image in enumerate(images):
            paths.append(self.folder / f"{step:06d}-{number:02d}.png")
            image.save(paths[-1])
        sheet(self.folder).save(self.folder / "sheet.png")
        return [*paths, self.folder / "sheet.png"]


def sheet(folder: Path) -> Image.Image:
    """Return all images so far: a row for each step, a column for each prompt."""
    from PIL import Image, ImageDraw

    rows: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("[0-9]*-[0-9]*.png")):
        rows.setdefault(int(path.name.partition("-")[0]), []).append(path)
    opened = {step: [Image.open(path).convert("RGB") for path in paths] for step, paths in sorted(rows.items())}
    width = max(image.width for images in opened.values() for image in images)
    height = max(image.height for images in opened.values() for image in images)
    columns = max(map(len, opened.values()))
    paper = Image.new("RGB", (columns * width, len(opened) * (height + LINE)), "white")
    pen = ImageDraw.Draw(paper)
    for row, (step, images) in enumerate(opened.items()):
        top = row * (height + LINE)
        pen.text((2, top), f"step {step}", fill="black")
        for column, image in enumerate(images):
            paper.paste(image, (column * width, top + LINE))
    return paper
