"""One running webui for the tests of a file, and its images as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from tests.webui.server import HERE, WebUI

PROMPT = "a red house on a hill"
PROBE = HERE / "probe"
Picture = np.ndarray
# the upscaler is the webui's, see kinds.py
HIRES: dict[str, Any] = {"enable_hr": True, "hr_scale": 1.5, "hr_second_pass_steps": 3, "denoising_strength": 0.7}


def pixels(image: Image.Image) -> Picture:
    """Return an image as numbers that can be subtracted."""
    return np.asarray(image).astype(np.int16)


def mean(one: Picture, other: Picture) -> float:
    """Return the mean difference, of 255."""
    return float(np.abs(one - other).mean())


def largest(one: Picture, other: Picture) -> int:
    """Return the largest difference of a pixel, of 255."""
    return int(np.abs(one - other).max())


class Running:
    """A webui and what tests ask of it."""

    def __init__(self, webui: WebUI) -> None:
        self.webui = webui
        self.info: dict[str, Any] = {}
        self.states = 0

    def generate(self, tags: str = "", prompt: str = PROMPT, **fields: Any) -> Picture:
        """Return the first image for the prompt with tags behind it; `info` is what the API said of it."""
        images, self.info = self.webui.txt2img(f"{prompt} {tags}".strip(), **fields)
        return pixels(images[0])

    @property
    def problems(self) -> str:
        """What the API said that could not be done."""
        return str(self.info["extra_generation_params"].get("Lyco problems", ""))

    def bits(self) -> str:
        """Return a digest of the loaded model's parameters and buffers, once every layer has run without networks.

        The built-in loader takes <lora:...> out of a layer when that runs next, and the text encoder runs for new prompts only.
        """
        self.states += 1
        self.generate(prompt=f"state {self.states}", negative_prompt=f"state {self.states}")
        return str(self.webui.call("/tests/state")["bits"])

    def memory(self) -> float:
        """Return the server's resident memory in MB."""
        return float(self.webui.call("/tests/state")["memory"])
