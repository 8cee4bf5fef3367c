"""A diffusers folder of any other family: the pipeline reads the prompt and samples by itself, with networks on its parts meanwhile.

What needs our own reading of the prompt - emphasis, AND, prompt editing, words that networks bring - is not there, and said.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError, LycorisError, readable, reason
from ...models import FAMILIES
from ...models.families import PIPELINE_PARTS
from ...networks.reading.folder import PICKLES, SAFETENSORS
from ...patching import Patcher
from ...plain_json import read_json
from ...prompt import PromptPlan
from ...prompt.attention import read_attention
from ...records import dataclass
from ..protocol import GenerationCancelled, GenerationProgress, GenerationRequest
from .models import LoadedModel, first_line
from .samplers import SAMPLERS
from .sampling import RAN_OVER

CANNOT_READ = (OSError, ValueError, TypeError, AttributeError, ImportError, KeyError, RuntimeError)
MAIN = ("transformer", "prior", "unet")


@dataclass(frozen=True)
class WholePipeline(LoadedModel):
    """A pipeline of another family, which is called whole."""

    @property
    def samplers(self) -> tuple[str, ...]:
        """The one sampler that the pipeline came with."""
        return (type(self.pipe.scheduler).__name__.removesuffix("Scheduler"),)

    def settled(self, request: GenerationRequest) -> tuple[GenerationRequest, list[str]]:
        """Return a request with the pipeline's own sampler, and a sentence where it asked for one of Stable Diffusion's."""
        (own,) = self.samplers
        if request.sampler not in SAMPLERS:
            return request, []
        return replace(request, sampler=own), [f"{type(self.pipe).__name__} samples with its own {own}; {request.sampler} was not used"]

    def towers(self) -> list[tuple[Any, Any]]:
        """Return none: the pipeline reads the prompt."""
        return []

    def parts(self) -> dict[str, nn.Module]:
        """Return the modules that networks change, by the names that diffusers gives them."""
        return parts_of(self.pipe)

    def draw(
        self, request: GenerationRequest, prompt: PromptPlan, negative: str, seed: int, go_to: Callable[[int], None],
        progress: Callable[[GenerationProgress], None], cancel: Event,
    ) -> tuple[Any, list[str]]:  # fmt: skip
        """Return a PIL image and what could not be followed. Raises HostError, or GenerationCancelled after a cancel."""
        text, problems = plain_text(prompt)

        def after(_pipe: Any, done: int, _timestep: Any, state: dict[str, Any]) -> dict[str, Any]:
            if cancel.is_set():
                raise GenerationCancelled
            go_to(done + 1)
            progress(GenerationProgress(done + 1, request.steps))
            return state

        self.pipe.set_progress_bar_config(disable=True)
        known = inspect.signature(self.pipe.__call__).parameters
        given: dict[str, Any] = {
            "prompt": text, "negative_prompt": negative or None, "num_inference_steps": request.steps, "width": request.width,
            "height": request.height, "num_frames": 1, "generator": torch.Generator("cpu").manual_seed(seed), "output_type": "pt",
            "guidance_scale": request.cfg, "true_cfg_scale": request.cfg if negative else None, "callback_on_step_end": after,
        }  # fmt: skip
        if negative and "negative_prompt" not in known:
            problems.append(f"{type(self.pipe).__name__} takes no negative prompt; it was left out")
        if "callback_on_step_end" not in known:
            problems.append(f"{type(self.pipe).__name__} does not tell its steps: strengths stay as they are at the first one")
        problems += unfollowed(self.parts(), self.pipe) if prompt.tags else []
        go_to(0)
        try:
            made = self.pipe(**{name: value for name, value in given.items() if name in known and value is not None})
        except (ValueError, TypeError, NotImplementedError) as error:
            raise HostError(f"{type(self.pipe).__name__} cannot make this image: {first_line(error)}") from error
        return self._image(made, problems)

    def _image(self, made: Any, problems: list[str]) -> tuple[Any, list[str]]:
        """Return the image, of a video its first frame; what is no number is told."""
        pixels: Tensor = made.images[0] if hasattr(made, "images") else made.frames[0][0]
        if not bool(torch.isfinite(pixels).all()):
            problems.append(RAN_OVER)
        from diffusers.image_processor import VaeImageProcessor

        return VaeImageProcessor().postprocess(torch.nan_to_num(pixels)[None] * 2 - 1, output_type="pil")[0], problems


def parts_of(pipe: Any) -> dict[str, nn.Module]:
    """Return the parts of a pipeline that networks change."""
    return {name: part for name in PIPELINE_PARTS if isinstance(part := getattr(pipe, name, None), nn.Module)}


def plain_text(prompt: PromptPlan) -> tuple[str, list[str]]:
    """Return the words of a prompt as a pipeline reads them, and a sentence on each thing that it cannot follow."""
    first, problems = prompt.parts[0], []
    if any(parts != first for parts in prompt.parts):
        problems.append(
            "words that change between the steps are followed with Stable Diffusion 1, 2 and XL alone: the first ones were used"
        )
    if len(first) > 1 or first[0].weight != 1:
        problems.append("AND is followed with Stable Diffusion 1, 2 and XL alone: the parts were read as one text")
    text = " ".join(part.text for part in first)
    if any(weight != 1 for _, weight in read_attention(text)):
        problems.append("emphasis is followed with Stable Diffusion 1, 2 and XL alone: the brackets were read as words")
    return text, problems


def refuse_unknown(path: Path) -> None:
    """Raise HostError for a folder that brings code, or whose pipeline or parts the installed libraries do not have, naming them."""
    import diffusers
    import transformers

    _refuse_code(path)
    wanted, parts = _told(path)
    for name in parts:
        refuse_pickles(path / Path(name).name)
    versions = {"diffusers": diffusers, "transformers": transformers}
    for name, (library, _) in parts.items():
        if library not in versions and not hasattr(diffusers.pipelines, library):
            raise HostError(f"{path.name} takes its {readable(name, 40)} from {readable(library, 40)}, code that is never run here")
    lacking = [] if hasattr(diffusers, wanted) else [("diffusers", wanted)]
    lacking += [(library, kind) for library, kind in parts.values() if library in versions and not hasattr(versions[library], kind)]
    for library, kind in lacking[:1]:
        installed = f"{library} {versions[library].__version__}"
        raise HostError(
            f"{path.name} is a {wanted} and needs {kind}, which the installed {installed} does not have; install a newer {library}"
        )


def _refuse_code(path: Path) -> None:
    """Raise HostError for a folder with Python code in it, which diffusers may run in the place of its own, whatever the index says."""
    files = sorted(file for pattern in ("*", "*/*") for file in path.glob(pattern) if file.suffix.lower() == ".py")
    if files:
        raise HostError(f"{path.name} holds code ({readable(files[0].relative_to(path), 60)}), which is never run here; take it out")


def refuse_pickles(part: Path) -> None:
    """Raise HostError for a part of a model whose weights are pickles alone: torch would read them, and old ones run what is in them."""
    files = sorted(file for file in part.iterdir() if file.is_file()) if part.is_dir() else []
    pickles = [file.name for file in files if file.suffix.lower() in PICKLES]
    if pickles and not any(file.suffix.lower() == SAFETENSORS for file in files):
        raise HostError(
            f"{part.parent.name}/{part.name} has its weights in {readable(pickles[0], 40)}, a pickle, which is not opened here; "
            "save the model with safe_serialization=True"
        )


def _told(path: Path) -> tuple[str, dict[str, tuple[str, str]]]:
    """Return what a folder's index says: the pipeline's class, and part -> (library, class). Raises HostError where it says neither."""
    try:
        told = read_json(path / "model_index.json")
        listed = {name: value for name, value in told.items() if isinstance(value, list) and len(value) == 2}
        if not isinstance(told["_class_name"], str):
            raise TypeError
        return told["_class_name"], {name: (value[0], str(value[1])) for name, value in listed.items() if isinstance(value[0], str)}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise HostError(f"{path}/model_index.json does not say which pipeline it is of: {reason(error)}; download it again") from error


def whole_pipeline(path: Path, pipe: Any) -> WholePipeline:
    """Describe a pipeline; raise HostError where nothing of it is of a known family, or it makes no image of a text alone."""
    kind, main = type(pipe).__name__, next((name for name in MAIN if getattr(pipe, name, None) is not None), None)
    known: Mapping[str, Any] = inspect.signature(pipe.__call__).parameters
    needed = [name for name, item in known.items() if item.default is item.empty and item.kind is item.POSITIONAL_OR_KEYWORD]
    if main is None or "prompt" not in known or set(needed) - {"prompt"}:
        said = f"also needs {', '.join(needed)}" if main and needed else "reads no prompt"
        raise HostError(f"{path.name} is a {kind}, which {said}; give a pipeline that makes an image of a text alone")
    try:
        family = Patcher(parts_of(pipe)).base.family
    except LycorisError as error:
        part = f"{kind}, whose {main} ({type(getattr(pipe, main)).__name__})"
        raise HostError(f"{path.name} is a {part} is of no base model known here: {first_line(error)}") from error
    side, guidance = getattr(pipe, "default_sample_size", None), known.get("guidance_scale")
    scale = getattr(pipe, "vae_scale_factor", None)
    size = int(side) * int(scale) if isinstance(side, int) and isinstance(scale, int) else FAMILIES[family].size
    cfg = guidance.default if guidance is not None and isinstance(guidance.default, (int, float)) else 7.0
    return WholePipeline(pipe, family, path.name, False, size, float(cfg))


def unfollowed(parts: Iterable[str], pipe: Any) -> list[str]:
    """Say which further models of a pipeline networks do not change: the second transformer of Wan 2.2."""
    more = [name for name in MAIN if getattr(pipe, f"{name}_2", None) is not None]
    return [f"networks change {', '.join(parts)}; the pipeline's {name}_2 stays as it is" for name in more]
