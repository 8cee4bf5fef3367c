"""What a file is that is no network: by its first bytes, and by the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ...errors import readable

SHOWN = 80  # characters of a text that a site sent in place of a file
_STARTS = (
    (b"\x1f\x8b", "is a gzip archive, not a safetensors file; unpack it first"),
    (b"GGUF", "is a GGUF file, a quantised base model for other programs, not {wanted}"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive; unpack it first"),
    (b"Rar!", "is a RAR archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "is a Zstandard archive; unpack it first"),
    (b"\x89PNG", "is an image (PNG), not {wanted}"),
    (b"\xff\xd8\xff", "is an image (JPEG), not {wanted}"),
    (b"RIFF", "is an image or sound (RIFF), not {wanted}"),
    (b"%PDF", "is a PDF document, not {wanted}"),
    (b"\x93NUMPY", "is a NumPy array, not {wanted}"),
    (b"\x08\x00\x00\x00TFL", "is a TensorFlow Lite model, not {wanted}"),
)
PICKLE = "is a PyTorch pickle (.pt, .ckpt) under another name; give it the ending .pt or save it as .safetensors"
_JSON = re.compile(rb"\s*(\{\s*[\"}]|\[)")


def content_name(start: bytes, size: int, wanted: str = "a network") -> str | None:
    """Say what a file is that begins with these bytes, in words that follow its name; None when they do not tell it."""
    if size == 0:
        return "is empty (0 bytes); download it again"
    if start.startswith(b"PK\x03\x04"):
        return PICKLE if is_torch_zip(start) else "is a zip archive, not a safetensors file; unpack it first"
    if start[257:262] == b"ustar":
        return "is a tar archive, not a safetensors file; unpack it first"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:15].lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body", b"<script")):
        return "is a web page (HTML), not the file: the site asked to sign in or sent an error; download it in the browser"
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file that it stands for; download it itself (git lfs pull)"
    if said := next((words for begin, words in _STARTS if start.startswith(begin)), None):
        return said.format(wanted=wanted)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return PICKLE
    if _JSON.match(text):
        return f"is a JSON text, not the file - an error message of the site? It says: {_said(text)}"
    if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text):
        return f"is a text, not {wanted}; it says: {_said(text)}"
    return None


def _said(text: bytes) -> str:
    return readable(" ".join(text.decode("utf-8", "replace").split()), SHOWN)


def is_torch_zip(start: bytes) -> bool:
    """Tell whether the first member of a zip is one of those that torch.save writes first."""
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
    return name.endswith((b"/data.pkl", b"/byteorder", b"/.format_version", b"/version"))


def _any(*patterns: str) -> Callable[[list[str]], bool]:
    expression = re.compile("|".join(patterns))
    return lambda keys: any(expression.search(key) for key in keys)


_KINDS: tuple[tuple[Callable[[list[str]], bool], str], ...] = (
    (_any(r"^lora_controlnet$"), "a Control-LoRA of Stability AI, a part of a ControlNet; it belongs into the ControlNet folder"),
    (_any(r"^control_model\.", r"^controlnet_", r"(^|\.)zero_convs\.", r"(^|\.)input_hint_block\.", r"^control_"), "a ControlNet"),
    (_any(r"^ip_adapter\.", r"(^|\.)to_[kv]_ip\.", r"^image_proj\."), "an IP-Adapter"),
    (_any(r"^adapter\.(body|conv_in)\.", r"^body\.\d+\.(block|in_conv|resnets)"), "a T2I-Adapter"),
    (_any(r"^emb_params$", r"^string_to_(param|token)", r"^<[^>]+>$", r"^\*$"), "an embedding (textual inversion)"),
    (lambda keys: set(keys) <= {"clip_l", "clip_g", "t5", "t5xxl"}, "an embedding (textual inversion)"),
    (_any(r"^(320|640|768|1024|1280|2048)$"), "a hypernetwork"),
    (_any(r"^(redux|image_encoder)\.", r"^redux_(up|down)"), "a style model or an image encoder"),
    (_any(r"^(model\.|)conv_first\.", r"^body\.\d+\.rdb", r"^model\.\d+\.sub\.", r"^params(_ema)?\."), "an upscaler"),
    (
        _any(r"^(model\.diffusion_model|diffusion_model)\..*\.(weight|bias|scale)$", r"^cond_stage_model\.", r"^conditioner\.embedders\."),
        "a checkpoint (a base model)",
    ),
    (
        _any(
            r"^first_stage_model\.",
            r"^(decoder|encoder)\.(conv_(in|out)|mid|up|down|blocks|mid_block|up_blocks)\b",
            r"^(post_)?quant_conv\.",
        ),
        "a VAE",
    ),
    (
        _any(r"^(down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block)\..*\.weight$", r"^conv_in\.weight$"),
        "the UNet of a base model",
    ),
    (
        _any(
            r"^(transformer\.)?(double_blocks|single_blocks|joint_blocks|transformer_blocks|single_transformer_blocks|blocks|layers)\."
            r"\d+\..*weight$"
        ),
        "the transformer of a base model",
    ),
    (_any(r"^vision_model\.", r"^visual\."), "an image encoder (CLIP vision)"),
    (
        _any(r"^(transformer\.)?text_model\.", r"^encoder\.block\.\d+\.", r"^(model\.)?transformer\.resblocks\.", r"^text_encoders?\b"),
        "a text encoder",
    ),
    (_any(r"\.q_proj\.weight$", r"^model\.layers\.\d+\."), "a language model or a text encoder"),
)  # fmt: skip


def tensors_name(keys: Iterable[str]) -> str | None:
    """Say what a file with tensors of these names is that holds no network; None when they do not tell it."""
    names = list(keys)
    return next((words for test, words in _KINDS if names and test(names)), None)
