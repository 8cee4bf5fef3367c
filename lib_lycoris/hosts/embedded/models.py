"""A checkpoint file or a diffusers folder -> a diffusers pipeline, without asking any server for a configuration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...errors import HostError, LycorisError
from ...models.families import FAMILIES
from ...models.family import TextTower
from ...records import dataclass
from ...tools.files.checkpoints.checkpoint import open_checkpoint
from ...tools.files.checkpoints.scaled import is_scale
from ..protocol import GenerationRequest
from .samplers import SAMPLERS
from .shapes import (
    GENERATING,
    SCHEDULE,
    UNET,
    VAE,
    Shapes,
    clip_root,
    family_of,
    family_of_pipeline,
    from_open_clip,
    text_config,
    unet_config,
    vae_config,
)  # fmt: skip
from .tokenizer import clip_tokenizer, demo_tokenizer, demo_vocabulary

State = dict[str, Tensor]
# what diffusers, transformers and we end with on tensors that a model of the family cannot have
UNLIKE = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, AssertionError, RuntimeError, StopIteration)
NARROW, GENTLE = 64, 2.5  # pixels a side, and guidance, for models narrower than any released one, such as the demo model


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline that can make images, and what its parts do not say about themselves."""

    pipe: Any  # StableDiffusionPipeline or StableDiffusionXLPipeline
    family: str
    name: str
    penultimate: bool  # the text is read off the last layer but one
    size: int  # side of a square image that suits it, pixels
    cfg: float = 7.0  # guidance that suits it
    file: Path | None = None  # of a checkpoint that is one file

    @property
    def pooled(self) -> bool:
        """Whether the model also reads the pooled vector of its second text encoder."""
        return _has_two_text_encoders(self.pipe)

    @property
    def main(self) -> nn.Module:
        """The part that makes the image step by step."""
        parts = self.parts()
        return next(part for name, part in parts.items() if not name.startswith("text_"))

    @property
    def samplers(self) -> tuple[str, ...]:
        """The names of the samplers that it works with."""
        return tuple(SAMPLERS)

    def settled(self, request: GenerationRequest) -> tuple[GenerationRequest, list[str]]:
        """Return a request as this model makes it, and what of it is not followed."""
        return request, []

    def towers(self) -> list[tuple[Any, Any]]:
        """Return (tokenizer, text encoder) pairs."""
        found = [(self.pipe.tokenizer, self.pipe.text_encoder)]
        if self.pooled:
            found.append((self.pipe.tokenizer_2, self.pipe.text_encoder_2))
        return found

    def parts(self) -> dict[str, nn.Module]:
        """Return the modules that networks change, by the names that diffusers gives them."""
        names = ["unet", "text_encoder"] + (["text_encoder_2"] if self.pooled else [])
        return {name: getattr(self.pipe, name) for name in names}


def _has_two_text_encoders(pipe: Any) -> bool:
    return getattr(pipe, "text_encoder_2", None) is not None


def load_model(path: Path, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """Open a single-file checkpoint (.safetensors) or a diffusers folder; raise HostError with a sentence if that fails."""
    if not path.exists():
        raise HostError(f"there is no checkpoint {path}; give a .safetensors file or a folder in diffusers' layout")
    model = _folder(path, dtype) if path.is_dir() else _single_file(path, dtype)
    model.pipe.to(device)
    return model


def _folder(path: Path, dtype: torch.dtype) -> LoadedModel:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

    from .pipelines import CANNOT_READ, refuse_unknown, whole_pipeline

    if not (path / "model_index.json").is_file():
        raise HostError(f"{path} is a folder without model_index.json, so it is not a model in diffusers' layout")
    refuse_unknown(path)
    try:
        pipe = DiffusionPipeline.from_pretrained(str(path), torch_dtype=dtype, local_files_only=True, use_safetensors=True)
    except (*CANNOT_READ, SafetensorError) as error:
        raise HostError(f"diffusers cannot load {path}: {first_line(error)}") from error
    if not isinstance(pipe, (StableDiffusionPipeline, StableDiffusionXLPipeline)):
        return whole_pipeline(path, pipe)
    if pipe.unet.config.in_channels != 4:
        raise HostError(f"{path} is a {type(pipe).__name__}; this command needs SD1, SD2 or SDXL base for text")
    if hasattr(pipe, "safety_checker"):
        pipe.safety_checker = None
    double = _has_two_text_encoders(pipe)
    family = family_of_pipeline(2 if double else 1, bool(pipe.unet.config.use_linear_projection))
    size = int(pipe.unet.config.sample_size) * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    return LoadedModel(pipe, family, path.name, double, size)


def _single_file(path: Path, dtype: torch.dtype) -> LoadedModel:
    if path.suffix.lower() != ".safetensors":
        raise HostError(f"{path.name} is not a .safetensors file; checkpoints in pickle formats are not opened here, convert it first")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            shapes: Shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
            metadata = file.metadata() or {}
            _refuse_scaled(shapes, path.name)
            _refuse_empty(shapes, path.name)
            if f"{UNET}input_blocks.0.0.weight" not in shapes:
                _refuse_other_family(path)
            family = family_of(shapes, path.name)
            state = {key: file.get_tensor(key) for key in shapes if _needed(key, family)}
    except (OSError, SafetensorError, *UNLIKE) as error:
        raise HostError(f"{path.name} cannot be read as safetensors (is the download complete?): {first_line(error)}") from error
    notes = _yaml_notes(path)
    try:
        pipe = _assemble(state, shapes, family, notes, dtype)
    except UNLIKE as error:
        raise HostError(f"{path.name} looks like {family} but lacks parts of it, or has others: {first_line(error)}") from error
    predicted = str(metadata.get("modelspec.prediction_type", "")).lower().replace("-", "_")
    generation = GENERATING[family]
    v = notes.get("v") or predicted == "v" or "v_pred" in predicted
    if v or (generation.velocity_size is not None and predicts_velocity(pipe.unet)):
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="v_prediction")
    size = generation.velocity_size if v and generation.velocity_size else FAMILIES[family].size
    if shapes[f"{UNET}input_blocks.0.0.weight"][0] < 320:
        return LoadedModel(pipe, family, path.stem, generation.penultimate, NARROW, GENTLE, file=path)
    return LoadedModel(pipe, family, path.stem, generation.penultimate, size, file=path)


def _refuse_empty(shapes: Shapes, name: str) -> None:
    """Raise HostError for a tensor without numbers or without axes, whose lengths a model could be built by: they cost a file nothing."""
    if empty := next((key for key, shape in shapes.items() if 0 in shape), None):
        raise HostError(f"{name} is broken: {empty} holds no numbers; download it again")
    if not shapes.get(f"{UNET}input_blocks.0.0.weight", (1, 1))[1:]:
        raise HostError(f"{name} is broken: {UNET}input_blocks.0.0.weight has the wrong shape; download it again")


def _refuse_scaled(shapes: Shapes, name: str) -> None:
    if scale := next((key for key in shapes if is_scale(key)), None):
        raise HostError(f"{name} keeps its weights scaled ({scale}), which images are not made with here; use its fp16 or bf16 version")


def _refuse_other_family(path: Path) -> None:
    """Raise HostError that names the family of a checkpoint that images are not made with; nothing for what is no checkpoint."""
    try:
        base = open_checkpoint(path).base
    except LycorisError:
        return  # the caller says what is missing
    if base.family in GENERATING:
        return
    raise HostError(
        f"{path.name} is a checkpoint of {base.label}, which is loaded from a folder in diffusers' layout alone (with model_index.json, "
        "text encoders and VAE); one file makes images with Stable Diffusion 1, 2 and XL"
    )


def _needed(key: str, family: str) -> bool:
    return key.startswith((UNET, VAE, *(tower.prefix for tower in GENERATING[family].towers)))


def _assemble(state: State, shapes: Shapes, family: str, notes: dict[str, Any], dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    config = unet_config(shapes, family, notes.get("head_channels"))
    unet = _filled(UNet2DConditionModel, config, convert_ldm_unet_checkpoint, state, dtype)
    vae = _filled(AutoencoderKL, vae_config(shapes, family), convert_ldm_vae_checkpoint, state, dtype)
    towers = GENERATING[family].towers
    texts = [_text_encoder(state, shapes, tower, len(towers) > 1 and tower.open_clip, dtype) for tower in towers]
    tokenizers = [_tokenizer(text, tower) for text, tower in zip(texts, towers)]
    common = {"vae": vae, "unet": unet, "scheduler": DDIMScheduler(**SCHEDULE), "text_encoder": texts[0], "tokenizer": tokenizers[0]}
    if len(texts) > 1:
        return StableDiffusionXLPipeline(**common, text_encoder_2=texts[1], tokenizer_2=tokenizers[1], add_watermarker=False)
    return StableDiffusionPipeline(**common, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def _filled(kind: Any, config: dict[str, Any], convert: Any, state: State, dtype: torch.dtype) -> nn.Module:
    """Build one diffusers model and give it its part of the checkpoint, renamed by diffusers' own conversion."""
    with torch.device("meta"):
        planned = kind(**config)
    part = convert(state, config=dict(planned.config))
    _refuse_unlike(planned, part, kind.__name__)
    model = kind(**config)
    model.load_state_dict(part, strict=False)
    ready: nn.Module = model.to(dtype).eval()
    return ready


def _refuse_unlike(planned: nn.Module, part: State, whose: str) -> None:
    """Raise what tells that a file lacks tensors of a model, or has them in other shapes, before the model asks for any memory.

    Its sides are those of single tensors: one that is absurdly long makes all others that long, of which the file then has none.
    """
    wanted = _trained(planned)
    if missing := [name for name in wanted if name not in part]:
        raise KeyError(f"{whose} finds no {missing[0]} and {len(missing) - 1} more")
    for name, tensor in wanted.items():
        if part[name].shape != tensor.shape:
            raise ValueError(f"{whose} finds {name} as {tuple(part[name].shape)}, where {tuple(tensor.shape)} would fit the other tensors")


def _trained(planned: nn.Module) -> State:
    """Return what a model has to be given: places of words are numbers that it makes itself, which files hold rounded at times."""
    return {name: tensor for name, tensor in planned.state_dict().items() if not name.endswith("position_ids")}


def _text_encoder(state: State, shapes: Shapes, tower: TextTower, projected: bool, dtype: torch.dtype) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind, config = CLIPTextModelWithProjection if projected else CLIPTextModel, CLIPTextConfig(**text_config(shapes, tower))
    with torch.device("meta"):
        planned = kind(config)
    root = clip_root(shapes, tower)
    named = from_open_clip(state, tower) if tower.open_clip else {k[len(root) :]: v for k, v in state.items() if k.startswith(root)}
    source = {name: name.removeprefix("text_model.") for name in _trained(planned)}  # transformers 5 has the inner names only
    part = {name: named[key] for name, key in source.items() if key in named}
    _refuse_unlike(planned, part, f"the text encoder {tower.prefix}")
    model = kind(config)
    model.load_state_dict(part, strict=False)
    ready: nn.Module = model.to(dtype).eval()
    return ready


def _tokenizer(text_encoder: Any, tower: TextTower) -> Any:
    words = text_encoder.get_input_embeddings().weight.shape[0]
    return demo_tokenizer() if words == demo_vocabulary() else clip_tokenizer(pad_with_zero=tower.open_clip)


def _yaml_notes(path: Path) -> dict[str, Any]:
    """Return what shapes do not say, from a configuration that the webui would find beside the file."""
    beside = path.with_suffix(".yaml")
    if not beside.is_file():
        return {}
    text = beside.read_text(encoding="utf-8", errors="replace")
    head = re.search(r"^\s*num_head_channels:\s*(\d{1,6})\b", text, re.MULTILINE)
    return {"v": bool(re.search(r"""parameterization:\s*["']?v\b""", text)), "head_channels": int(head[1]) if head else None}


@torch.no_grad()
def predicts_velocity(unet: Any) -> bool:
    """Tell SD2's two kinds apart by what the UNet answers to a flat image at the last step; nothing in the file says it."""
    weight = next(unet.parameters())
    picture = torch.full((1, 4, 8, 8), 0.5, device=weight.device, dtype=weight.dtype)
    text = torch.full((1, 2, unet.config.cross_attention_dim), 0.5, device=weight.device, dtype=weight.dtype)
    answer = unet(picture, torch.tensor([999], device=weight.device), encoder_hidden_states=text).sample
    return float((answer - picture).float().mean()) < -1


def first_line(error: Exception) -> str:
    """Return what a library's error says, in one line."""
    text = str(error).strip().strip("'\"")
    return text.splitlines()[0] if text else type(error).__name__
