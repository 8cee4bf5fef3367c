"""What the controls of an image hold -> what is asked of a host; and back, from the text inside an image."""

from __future__ import annotations

import re
from typing import Any

from ....errors import LycorisError, ToolError
from ....hosts.protocol import GenerationRequest
from ....plain_json import parse_json

# of the last line, as the webui writes and reads it; each name begins behind a comma, so that a stranger's image costs no time
PAIR = re.compile(r'(?:^|,)\s*(\w[\w ]*):\s*("(?:\\.|[^"\\])*"|[^,]*)')
NEGATIVE = "Negative prompt:"


def read_request(
    prompt: str, negative: str, seed: float | None, steps: float, width: float, height: float, cfg: float, sampler: str
) -> GenerationRequest:
    """Make a request of what the controls hold; raise LycorisError for a field left empty."""
    fields = {"Seed": seed, "Steps": steps, "Width": width, "Height": height, "Guidance": cfg}
    empty = [name for name, value in fields.items() if value is None]
    if empty or seed is None:
        raise LycorisError(f"{' and '.join(empty)}: a number is missing")
    try:
        side = [8 * round(value / 8) for value in (width, height)]
        return GenerationRequest(prompt, negative, int(seed), int(steps), side[0], side[1], float(cfg), sampler)
    except (TypeError, ValueError, OverflowError) as error:  # a program may send what no page does
        raise LycorisError(f"a setting of the image is no usable number: {error}") from error


def read_generation_text(text: str) -> dict[str, Any]:
    """Return the values of the fields that an image's text names: prompt, negative, seed, steps, width, height, cfg, sampler, model.

    Raises ToolError for a text that names no setting.
    """
    lines = text.strip().split("\n")
    facts = {key.strip(): _plain(value.strip()) for key, value in PAIR.findall(lines[-1])}
    if "Steps" not in facts or "Seed" not in facts:
        raise ToolError("this is no generation text: it has no line with Steps and Seed")
    at = next((number for number, line in enumerate(lines[:-1]) if line.startswith(NEGATIVE)), len(lines) - 1)
    negative = "\n".join(lines[at:-1])[len(NEGATIVE) :].strip()
    found: dict[str, Any] = {"prompt": "\n".join(lines[:at]).strip(), "negative": negative}
    width, _, height = facts.get("Size", "").partition("x")
    numbers = {"seed": facts["Seed"], "steps": facts["Steps"], "cfg": facts.get("CFG scale", ""), "width": width, "height": height}
    for name, value in numbers.items():
        if value:
            try:
                found[name] = float(value) if name == "cfg" else int(value)
            except ValueError:
                raise ToolError(f"{name} in the generation text is {value[:40]}, which is no number") from None
    texts = {"sampler": facts.get("Sampler"), "model": facts.get("Model")}
    return found | {name: value for name, value in texts.items() if value}


def _plain(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(parse_json(value))
    except ValueError:
        return value.strip('"')
