"""A live model's own module names, in LDM or diffusers style, matched with the canonical ones tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace

from ..errors import ModelMismatchError
from ..records import dataclass
from .base import BaseModel, family_of
from .detect import detect_family, recognise
from .families import FAMILIES
from .family import UNET_PREFIX, Component, Family
from .parameters import LayerInfo, parameter, rows, split_parameter, split_part
from .unet import UNetNames


@dataclass(frozen=True)
class Piece:
    """Say where rows of a canonical tensor live: `live_rows` of the parameter `leaf` of a live module."""

    rows: slice
    module: str
    leaf: str
    live_rows: slice
    transposed: bool = False  # the live tensor is the canonical one transposed; both ranges are then all rows


@dataclass(frozen=True)
class LiveNames:
    """A live model under canonical names: what it is, where each canonical parameter lives, and what nobody knows."""

    base: BaseModel
    places: Mapping[str, tuple[Piece, ...]]
    unknown: tuple[str, ...] = field(default=())

    def pieces(self, name: str) -> tuple[Piece, ...]:
        """Return where a canonical parameter, or a part of one, lives; `rows` are those of what is named. Empty if nowhere."""
        whole, part = split_part(name)
        places = self.places.get(whole, ())
        if part is None:
            return tuple(place for place in places if not place.transposed)
        if part == "T":  # a file's transposed matrix fits a layer that keeps it transposed, and only that
            return tuple(replace(place, rows=place.live_rows) for place in places if place.transposed)
        module = split_parameter(name)[0]
        ranges = rows(part, self.base.layers[module].shape) if module in self.base.layers else ()
        return tuple(piece for start, wanted in _with_starts(ranges) for place in places for piece in _overlap(place, wanted, start))


def _with_starts(ranges: Sequence[slice]) -> Iterator[tuple[int, slice]]:
    """Yield each range with the row that it begins at when all are put one after the other."""
    start = 0
    for item in ranges:
        yield start, item
        start += item.stop - item.start


def _overlap(place: Piece, wanted: slice, start: int) -> Iterator[Piece]:
    """Yield the rows of a place that are wanted, as a piece of what begins with them at `start`."""
    first, last = max(place.rows.start, wanted.start), min(place.rows.stop, wanted.stop)
    if first < last:
        live, mine = place.live_rows.start + first - place.rows.start, start + first - wanted.start
        yield replace(place, rows=slice(mine, mine + last - first), live_rows=slice(live, live + last - first))


@dataclass(frozen=True)
class _Match:
    """One live module (or a part of it) that holds a canonical module (or a part of it)."""

    module: str
    part: str | None
    live: str
    live_part: str | None
    info: LayerInfo


_HOST_INFIX = re.compile(r"\.wrapped(?=\.|$)|\b_orig_mod\.")
_HOST_PREFIXES = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.")
_OTHER_NETWORKS = ("vae.", "first_stage_model.", "model_ema.", "image_encoder.", "safety_checker.")
_TEXT_PREFIX = re.compile(r"(clip_[lgh]|(um)?t5xxl|text_encoder(_[23])?|(qwen|gemma|ministral)\w*|[01])\.")
_LANGUAGE_MODEL = re.compile(r"(qwen|gemma|ministral)\w*\.(transformer\.)?(?=model\.)")  # Neo calls Z-Image's and FLUX.2's qwen3
_BARE_TEXT = re.compile(r"(text_model|encoder\.layers|embeddings|transformer\.resblocks)\.|final_layer_norm$|text_projection$")
_BARE_OPEN_CLIP = re.compile(r"(token_embedding|positional_embedding|ln_final)$")
_BARE_T5 = re.compile(r"encoder\.(block|final_layer_norm|embed_tokens)|shared$")
_UNET = UNetNames()


def from_live(names: Mapping[str, LayerInfo], family: str | None = None) -> LiveNames:
    """Match a live model's dotted module names with the canonical ones.

    `names` is a whole pipeline, a webui's model, or a bare UNet or text encoder; a bare parameter is a name of kind
    Parameter. The family is detected if it is not given. Raises ModelMismatchError when it cannot be told,
    UnknownFamilyError for a family that is none.
    """
    cleaned = {live: name for live in names if (name := _clean(live)) is not None}
    family = family_of(family).id if family else _family({name: names[live] for live, name in cleaned.items()})
    located: dict[str, list[tuple[str, str]]] = {}
    components = {item.key: item for item in FAMILIES[family].components}
    bare_text = _bare_text(components, [names[live] for live, name in cleaned.items() if _BARE_TEXT.match(name)])
    for live, name in cleaned.items():
        key, path = _locate(FAMILIES[family], name, bare_text)
        located.setdefault(key, []).append((live, path))
    unknown = [live for live in names if live not in cleaned]
    matches: dict[str, list[_Match]] = {}
    for key, paths in located.items():
        unknown += _match_component(FAMILIES[family], components[key], paths, names, matches) if key else [live for live, _ in paths]
    layers = {module: _canonical_info(module, found) for module, found in matches.items()}
    places: dict[str, tuple[Piece, ...]] = {}
    for module, found in matches.items():
        places.update(_places(module, layers[module], found))
    return LiveNames(BaseModel(family, layers), places, tuple(unknown))


def _clean(name: str) -> str | None:
    if name.startswith(_OTHER_NETWORKS):
        return None
    name = _HOST_INFIX.sub("", name)
    if name.startswith("model.diffusion_model."):
        return name[len("model.") :]
    return next((name[len(prefix) :] for prefix in _HOST_PREFIXES if name.startswith(prefix)), name)


def _family(cleaned: Mapping[str, LayerInfo]) -> str:
    main = {name: info for name, info in cleaned.items() if not _is_text(name)}
    texts = {name: info for name, info in cleaned.items() if name not in main}
    if texts and not main:
        # A text encoder on its own: several families share it, the width is all there is to see.
        width = next(iter(texts.values())).shape[-1]
        return _family_of_texts(texts) or {1024: "sd2", 1280: "sdxl"}.get(width, "sd1")
    # norms, of which some families leave a few undeclared, say little: their names and sizes are those of many models
    shapes = {name: {"diff": info.shape} for name, info in main.items() if info.kind not in ("LayerNorm", "GroupNorm")}
    if found := detect_family(shapes):
        return found
    unet = [name.removeprefix("unet.").removeprefix(UNET_PREFIX) for name in main]
    if sum(_UNET.knows(name) for name in unet) > len(unet) // 2:
        # A UNet of unusual width: SDXL has two text encoders, SD2 linear projections, SD1 convolutions.
        linear = any(name.endswith(".proj_in") and info.kind == "Linear" for name, info in main.items())
        two = any(name.startswith("text_encoder_2.") for name in texts)
        return _family_of_texts(texts) or ("sdxl" if two else "sd2" if linear else "sd1")
    told = recognise(shapes)
    if told.alike:
        return told.alike[0]  # of unusual width: the names of its layers say what it is, the commonest model first
    example = next(iter(cleaned), "no module at all")
    raise ModelMismatchError(f"The live model has {example} and no sign of a known family ({told.reason}); name its family.")


def _family_of_texts(texts: Mapping[str, LayerInfo]) -> str | None:
    """Tell the family by how its text encoders' names begin; None where they do not begin as those of a family."""
    for family in FAMILIES.values():
        prefixes = tuple(item.prefix for item in family.components if item.key != "unet")
        if texts and prefixes and all(name.startswith(prefixes) for name in texts):
            return family.id
    return None


def _is_text(name: str) -> bool:
    bare = name.removeprefix("transformer.").removeprefix("model.")
    return any(pattern.match(bare) for pattern in (_TEXT_PREFIX, _BARE_TEXT, _BARE_OPEN_CLIP, _BARE_T5))


def _bare_text(components: Mapping[str, Component], found: list[LayerInfo]) -> str:
    """Say which text encoder one without a prefix is: bigG if the family has it and the width is its own."""
    width = min((info.shape[-1] for info in found), default=0)
    return "te2" if "te2" in components and ("te1" not in components or width == 1280) else "te1"


def _locate(family: Family, name: str, bare_text: str) -> tuple[str, str]:
    """Give the component's key and the path inside it; the key is "" for a name of no component."""
    for item in family.components:
        for prefix in (item.prefix, f"{item.pipeline}."):
            if name.startswith(prefix) and not (item.key != "unet" and name.startswith("model.diffusion_model.")):
                return item.key, name[len(prefix) :]
    if found := _in_language_model(family, name):
        return found
    for slot, key in family.slots.items():
        if name.startswith(f"{slot}.transformer."):
            return key, name[len(slot) + len(".transformer.") :]
    if _BARE_T5.match(name):
        return ("te3" if family.slots.get("t5xxl") else ""), name
    if _BARE_TEXT.match(name) or _BARE_OPEN_CLIP.match(name):
        return bare_text, name
    unet = next(item for item in family.components if item.key == "unet")
    return ("unet" if family.naming(unet).knows(name) else ""), name


def _in_language_model(family: Family, name: str) -> tuple[str, str] | None:
    """Give the same for a name in a language model as Forge Neo holds it, with Anima's conditioner among its parts; None for others."""
    if not _is_text(name):
        return None
    for item in family.components:
        if item.inside and (parts := name.partition(f".{item.inside}"))[1]:
            return item.key, parts[2]
    found = _LANGUAGE_MODEL.match(name)
    return ("te1", name[found.end() :]) if found and any(item.key == "te1" for item in family.components) else None


def _match_component(
    family: Family, component: Component, paths: list[tuple[str, str]], names: Mapping[str, LayerInfo], matches: dict[str, list[_Match]]
) -> list[str]:
    """Add the matches of one component; return the live names that it does not know."""
    found = family.naming(component).read_live({path: names[live] for live, path in paths})
    for live, path in paths:
        for canonical, part, live_part in found.get(path, ()):
            matches.setdefault(component.prefix + canonical, []).append(
                _Match(component.prefix + canonical, part, live, live_part, names[live])
            )
    return [live for live, path in paths if path not in found]


def _canonical_info(module: str, found: list[_Match]) -> LayerInfo:
    """Describe the canonical module that these live ones make up."""
    first = found[0].info
    parts = {match.part: match.info for match in found}
    bias = any(match.info.bias for match in found)
    if None in parts or "swap" in parts:
        if found[0].live_part in ("q", "k", "v"):
            return LayerInfo("Linear", first.shape[1:] * 2, bias)
        kind = "Parameter" if module.endswith("positional_embedding") else first.kind
        kind = "Embedding" if module.endswith("embeddings.position_embedding") else kind
        return LayerInfo(kind, first.shape, bias)
    if "T" in parts:
        return LayerInfo("Parameter" if first.kind == "Linear" else "Linear", first.shape[::-1], False)
    width = first.shape[1]
    count = _height({part: info.shape[0] for part, info in parts.items() if part}, width)
    kind = "MultiheadAttention" if module.endswith(".attn") else "Linear"
    return LayerInfo(kind, (count, width), bias)


def _height(parts: Mapping[str, int], width: int) -> int:
    """Return how many rows a fused layer has whose parts have these; width: of its inputs."""
    for part, count in parts.items():
        if "/" in part:
            return count * int(part.partition("/")[2])
        if part.startswith("grouped_"):
            return width + 2 * count
    return 3 * width + parts.get("mlp", 0)


def _places(module: str, info: LayerInfo, found: list[_Match]) -> Iterator[tuple[str, tuple[Piece, ...]]]:
    for leaf in ("weight", "bias") if info.bias else ("weight",):
        pieces = [piece for match in found for piece in _pieces(match, leaf, info)]
        yield parameter(module, leaf), tuple(sorted(pieces, key=lambda piece: piece.rows.start))


def _pieces(match: _Match, leaf: str, info: LayerInfo) -> Iterator[Piece]:
    if leaf == "bias" and not match.info.bias:
        return
    name, _ = split_part(parameter(match.live, leaf) if match.info.kind != "Parameter" else match.live)
    module, _, live_leaf = name.rpartition(".")
    canonical = rows(match.part, info.shape)
    live = rows(match.live_part if match.live_part in ("q", "k", "v") else None, match.info.shape)[0]
    start = live.start
    for part in canonical:
        count = live.stop - live.start if match.part == "T" else part.stop - part.start
        yield Piece(part, module, live_leaf, slice(start, start + count), match.part == "T")
        start += count
