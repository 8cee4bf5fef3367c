"""A grid of images: strengths against networks, seeds, block presets or algorithms; a click on a cell writes its tag into the prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from html import escape

from PIL import Image, ImageDraw

from ....errors import ToolError
from ....hosts.protocol import GeneratedImage, GenerationRequest, Generator
from ....prompt import TagError, escape_name, find_tags, unescape_name
from ....prompt.number import format_number, parse_number
from ....records import dataclass
from .images import ImageFolder, as_address
from .making import Work

NETWORKS, SEEDS, PRESETS, ALGORITHMS = "networks", "seeds", "block presets", "algorithms"
ROWS = (NETWORKS, SEEDS, PRESETS, ALGORITHMS)
MOST = 100  # images
OFF = "its strength is 0"  # of the host's sentence on a network that changes nothing
SIDE = 192  # pixels of an image on the page
MARGIN, LINE = 120, 24  # pixels of the labels in the saved image


@dataclass(frozen=True)
class Cell:
    """One image of a grid: its tag, and what is asked for."""

    tag: str
    request: GenerationRequest


@dataclass(frozen=True)
class Grid:
    """What is to be made: labels, and a row of cells for each label of a row."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]


def plan_grid(
    request: GenerationRequest, strengths: str, kind: str, names: Sequence[str], typed: str, algorithms: Sequence[str] = ()
) -> Grid:  # fmt: skip
    """Return the grid that the fields ask for; ``algorithms``: those of the networks. Raises ToolError naming the field that is wrong."""
    values = [parse_number(text.strip(), "a strength") for text in strengths.replace(";", ",").split(",") if text.strip()]
    if not values:
        raise ToolError("Strengths: give some numbers, such as 0, 0.5, 1")
    if not names:
        raise ToolError("Networks: choose at least one")
    fixed = request if request.seed >= 0 else replace(request, seed=random.SystemRandom().randint(0, 2**32 - 1))
    rows = _rows(kind, names, [text.strip() for text in typed.split(",") if text.strip()], algorithms)
    if len(rows) * len(values) > MOST:
        raise ToolError(f"{len(rows) * len(values)} images are more than a grid takes; {MOST} are the most")
    cells = tuple(
        tuple(_cell(fixed, name, value, seed, preset) for value in values) for _, name, seed, preset in rows
    )  # fmt: skip
    return Grid(tuple(map(format_number, values)), tuple(label for label, *_ in rows), cells)


def _rows(kind: str, names: Sequence[str], typed: Sequence[str], algorithms: Sequence[str]) -> list[tuple[str, str, int | None, str]]:
    """Return label, network, seed and preset of each row."""
    if kind in (NETWORKS, ALGORITHMS):
        labels = [f"{kind_of} ({name})" for name, kind_of in zip(names, algorithms)] if kind == ALGORITHMS else names
        return [(label, name, None, "") for label, name in sorted(zip(labels, names))] if kind == ALGORITHMS else [
            (name, name, None, "") for name in names]  # fmt: skip
    if not typed:
        raise ToolError(f"Seeds or presets: give some {kind} with commas between")
    if len(names) > 1:
        raise ToolError(f"Networks: rows of {kind} are made with one network, and {len(names)} are chosen; choose one of them")
    if kind == PRESETS:
        return [(preset, names[0], None, preset) for preset in typed]
    if not all(text.isdigit() for text in typed):
        raise ToolError("Seeds or presets: a seed is a whole number, 0 or more")
    return [(f"seed {text}", names[0], int(text), "") for text in typed]


def _cell(request: GenerationRequest, name: str, strength: float, seed: int | None, preset: str) -> Cell:
    tag = f"<lyco:{escape_name(name)}:{format_number(strength)}{f':lbw={preset}' if preset else ''}>"
    read = find_tags(tag)[1][0]
    if isinstance(read, TagError):
        raise ToolError(str(read))
    rest = request.prompt
    for same in find_tags(rest)[1]:  # the prompt's own tag of this network would add to the cell's
        if not isinstance(same, TagError) and unescape_name(same.name) == name and same.text:
            rest = rest.replace(same.text, "")
    return Cell(tag, replace(request, prompt=f"{rest.strip()} {tag}".strip(), seed=request.seed if seed is None else seed))


class GridWork:
    """Makes the images of a grid one after another, and shows those that are there."""

    def __init__(self, grid: Grid, host: Generator, images: ImageFolder) -> None:
        self.grid, self.host, self.images = grid, host, images
        self.made: dict[tuple[int, int], GeneratedImage] = {}
        self.problems: dict[str, None] = {}
        self._small: dict[tuple[int, int], str] = {}

    def __call__(self, work: Work) -> str:
        """Make all of them and return the name of the saved image. Raises what the host raises, at the first that cannot be made."""
        places = [(row, column) for row in range(len(self.grid.rows)) for column in range(len(self.grid.columns))]
        for number, place in enumerate(places):
            work.part = (number, len(places))
            image = self.host.generate(self.grid.cells[place[0]][place[1]].request, work.tell, work.cancel)
            self.made[place] = image
            self.problems.update(dict.fromkeys(said for said in image.problems if OFF not in said))  # a grid begins at 0 on purpose
            small = image.image.copy()
            small.thumbnail((SIDE, SIDE))
            self._small[place] = as_address(small)
        return self.images.add(self.sheet(), "grid-").name

    def sheet(self) -> GeneratedImage:
        """Return all images as one with labels, and the text of the first with what the grid was."""
        first = self.made[0, 0]
        width, height = first.image.size
        size = (MARGIN + width * len(self.grid.columns), LINE + height * len(self.grid.rows))
        sheet = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(sheet)
        for column, label in enumerate(self.grid.columns):
            draw.text((MARGIN + column * width + 4, 6), _latin(label), fill="black")
        for row, label in enumerate(self.grid.rows):
            draw.text((4, LINE + row * height + height // 2 - 6), _latin(label)[:19], fill="black")
        for (row, column), image in self.made.items():
            sheet.paste(image.image, (MARGIN + column * width, LINE + row * height))
        said = f'{first.infotext}, Grid strengths: "{", ".join(self.grid.columns)}", Grid rows: "{_unquoted(", ".join(self.grid.rows))}"'
        return replace(first, image=sheet, infotext=said, problems=tuple(self.problems))

    def html(self) -> str:
        """Return the grid as it is now; each image is a button that writes its tag into the prompt."""
        head = "".join(f'<th scope="col">{escape(label)}</th>' for label in self.grid.columns)
        rows = "".join(f'<tr><th scope="row">{escape(label)}</th>{self._row(row)}</tr>' for row, label in enumerate(self.grid.rows))
        return (
            f'<div class="lyco_scroll"><table class="lyco_grid"><thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        )

    def _row(self, row: int) -> str:
        cells = []
        for column, cell in enumerate(self.grid.cells[row]):
            address, tag = self._small.get((row, column)), escape(cell.tag)
            shown = (
                f'<button type="button" data-lyco-send="{tag}" title="{tag}"><img src="{address}" alt="{tag}"></button>' if address else "…"
            )
            cells.append(f"<td>{shown}</td>")
        return "".join(cells)


def _latin(text: str) -> str:
    """Return a text as the built-in font of images can draw it."""
    return text.encode("latin-1", "replace").decode("latin-1")


def _unquoted(text: str) -> str:
    return text.replace('"', "'").replace("\n", " ")
