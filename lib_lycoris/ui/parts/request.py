"""What the controls of an image hold -> what is asked of a host."""

from __future__ import annotations

from ...errors import LycorisError
from ...hosts.protocol import GenerationRequest


def read_request(
    prompt: str, negative: str, seed: float | None, steps: float, width: float, height: float, cfg: float, sampler: str
) -> GenerationRequest:
    """Make a request of what the controls hold; raise LycorisError for a field left empty."""
    fields = {"Steps": steps, "Width": width, "Height": height, "Guidance": cfg}
    empty = [name for name, value in fields.items() if value is None]
    if empty:
        raise LycorisError(f"{' and '.join(empty)}: a number is missing")
    side = [8 * round(value / 8) for value in (width, height)]
    return GenerationRequest(prompt, negative, -1 if seed is None else int(seed), int(steps), side[0], side[1], float(cfg), sampler)
