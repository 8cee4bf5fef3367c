"""What is written into an image: the webui's "parameters" text, and what could not be done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..atomic import replacing
from ..errors import HostError
from ..wording import storable
from .protocol import GeneratedImage, GenerationRequest

_UNWANTED = str.maketrans("", "", ":,")  # what would break a list of hashes


def infotext(request: GenerationRequest, seed: int, model: str, hashes: Mapping[str, str], model_hash: str = "") -> str:
    """Return the text from which the webui and its readers make the same image again, and model sites find what it was made with."""
    facts = {
        "Steps": str(request.steps), "Sampler": request.sampler, "CFG scale": f"{request.cfg:g}", "Seed": str(seed),
        "Size": f"{request.width}x{request.height}", **({"Model hash": model_hash} if model_hash else {}), "Model": _quoted(model),
    }  # fmt: skip
    if hashes:
        listed = ", ".join(f"{name.translate(_UNWANTED)}: {digest}" for name, digest in hashes.items())
        facts["Lora hashes"] = facts["Lyco hashes"] = json.dumps(listed, ensure_ascii=False)
    lines = [request.prompt]
    if request.negative:
        lines.append(f"Negative prompt: {request.negative}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in facts.items())])


def save_png(picture: GeneratedImage, path: Path) -> None:
    """Write the image with its texts, beside its place and then renamed; raise HostError if that fails."""
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_itxt("parameters", storable(picture.infotext))
    if picture.problems:
        texts.add_itxt("lyco problems", storable("\n".join(picture.problems)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            picture.image.save(beside, format="PNG", pnginfo=texts)
    except OSError as error:
        raise HostError(f"{path} cannot be written: {error.strerror or error}; choose another place with --out") from error


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text
