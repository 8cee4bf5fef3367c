"""What is asked of a merge of networks: these, their strengths, which parameters they change together; and what it says of its sources."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ... import models
from ...errors import ModelMismatchError, ToolError
from ...models import BaseModel
from ...networks import Network, load
from ...networks.loading import family_of_all
from ...networks.reading.dtypes import precision_dtype
from ...networks.tag_counts import FREQUENCIES, joined_counts
from ...prompt import StrengthMap
from ...records import dataclass
from ..extract.difference import Reader
from ..files.checkpoints.checkpoint import open_checkpoint
from ..files.metadata import KEY, OWN_HASHES, base_entry, make_recipe, network_entry, triggers
from ..files.networks.alpha import check_alpha
from ..files.networks.network_file import Patch, patches, stored_dtype, style_of
from ..jobs.progress import Progress
from ..linalg.ranks import Rule
from ..units import MB
from .networks import DENSITY, METHODS, OPTIONS
from .strengths import NetworkOptions, asked

RECORDED = ("dim", "conv_dim", "rule", "value", "size", "method", "density", "seed", "style", "alpha", "save_precision", "family")
TITLE, TRIGGERS, SOURCES = "modelspec.title", "modelspec.trigger_phrase", "modelspec.merged_from"
JOINED = (FREQUENCIES, TITLE, TRIGGERS, SOURCES, KEY, *OWN_HASHES)
SAID = ("modelspec.author", "modelspec.license", "modelspec.description", "modelspec.usage_hint", "modelspec.thumbnail")
STRENGTHS = ("models", "ratios", "te", "te2", "unet", "lbw", "lbwe")

Key = tuple[str, str]  # module, leaf


@dataclass(frozen=True)
class Item:
    """One change of one network, with its strength."""

    patch: Patch
    strength: float
    digest: str


@dataclass(frozen=True)
class NetworksMergeOptions:
    """What is asked of a merge."""

    asked: list[NetworkOptions]
    networks: list[Network]
    base: BaseModel
    weights: Reader | None
    work: dict[Key, list[Item]]  # changes, in the fixed order
    linear: Rule | None  # None: exact
    conv: Rule | None
    size: int | None
    method: str
    density: float
    seed: int
    style: str
    dtype: torch.dtype
    device: str
    alpha: float | None

    @property
    def keeps_factors(self) -> bool:
        """Tell whether the networks' own factors are written, side by side."""
        return self.linear is None and not self.size

    def base_weight(self, patch: Patch) -> Tensor | None:
        """Return the weight that a change reads; None where it reads none, or no base model is given. Raises ToolError."""
        if self.weights is None or not patch.algorithm.reads_weight:
            return None
        if not self.weights.has(patch.name):
            raise ToolError(
                f"{self.weights.checkpoint.path.name} has no {patch.name}, which {patch.algorithm.name} needs; give the whole model"
            )
        return self.weights.read(patch.name, patch.shape)


def understand(options: Mapping[str, Any], progress: Progress) -> NetworksMergeOptions:
    """Return what options ask for, the networks loaded. Raises ToolError, ModelMismatchError."""
    given = {**{o.name: o.default for o in OPTIONS}, **options}
    wanted = asked(**{name: given[name] for name in STRENGTHS})
    checkpoint = open_checkpoint(given["base_model"]) if given["base_model"] else None
    base = checkpoint.base if checkpoint else None
    family = given["family"] or (family_of_all([item.path for item in wanted]) if base is None else None)
    progress.start(len(wanted), "reading networks", "networks")
    loaded: list[tuple[Network, StrengthMap, NetworkOptions]] = []
    for item in wanted:
        network = load(item.path, base if base and base.family != models.UNKNOWN.id else None, family=family)
        base = models.together([base, network.base]) if base else network.base
        if network.family != base.family:
            raise ModelMismatchError(f"{item.path.name} is for {network.base.label}, but {wanted[0].path.name} for {base.label}")
        loaded.append((network, item.strengths(base.family, given["seed"]), item))
        progress.advance(1, item.path.name)
    assert base is not None
    loaded.sort(key=lambda one: (one[0].digest, one[1].digest))
    work = _work(loaded, base)
    if not work:
        raise ToolError("nothing is left: every strength is 0 where the networks have a change; give other strengths or block weights")
    if all(item.patch.algorithm.is_zero for items in work.values() for item in items) and not any(n.embeddings for n, _, _ in loaded):
        raise ToolError("the networks are zero and change nothing; nothing was written")
    linear, conv = _rules(given)
    networks = [network for network, _, _ in loaded]
    style = given["style"] or _style(networks)
    request = NetworksMergeOptions(
        [item for _, _, item in loaded], networks, base, Reader(checkpoint) if checkpoint else None, work, linear, conv,
        int(given["size"] * MB) if given["size"] else None, given["method"], given["density"], given["seed"],
        style, precision_dtype(given["save_precision"], _widest(networks)), given["device"], check_alpha(given["alpha"], style),
    )  # fmt: skip
    _refuse_without_base(request)
    return request


def _rules(given: Mapping[str, Any]) -> tuple[Rule | None, Rule | None]:
    if given["method"] not in METHODS:
        raise ToolError(f'"{given["method"]}" is no way to merge; there are {", ".join(METHODS)}')
    if given["method"] == "sum" and given["density"] != DENSITY:
        raise ToolError("`density` is of TIES and DARE; choose one of them with `method`, or leave it out")
    dim, kind = given["dim"], given["rule"]
    if given["concat"]:
        _refuse_cuts(given)
    linear = Rule(kind, given["value"], dim)
    if dim is None and kind == "fixed" and not given["size"]:
        return None, None
    return linear, replace(linear, largest=dim if given["conv_dim"] is None else given["conv_dim"])


def _refuse_cuts(given: Mapping[str, Any]) -> None:
    cuts = [f"`{name}={given[name]}`" for name in ("dim", "conv_dim", "size") if given[name] is not None]
    cuts += [f"`{name}={given[name]}`" for name, exact in (("rule", "fixed"), ("method", "sum")) if given[name] != exact]
    if cuts:
        raise ToolError(f"`concat` keeps all ranks and is exact, {', '.join(cuts)} would not be; give only one of them")


def _work(loaded: Sequence[tuple[Network, StrengthMap, NetworkOptions]], base: BaseModel) -> dict[Key, list[Item]]:
    found: dict[Key, list[Item]] = {}
    for network, strengths, _ in loaded:
        for patch in patches(network, base):
            strength = strengths(patch.name)
            if not isinstance(strength, (int, float)):
                raise ToolError(f"the strength of {network.name} changes over the steps; a merged network has one strength, give a number")
            if strength:
                found.setdefault((patch.module, patch.leaf), []).append(Item(patch, float(strength), network.digest))
    order = {module: index for index, module in enumerate(base.layers)}
    return dict(sorted(found.items(), key=lambda item: (order[item[0][0]], item[0][1])))


def _style(networks: Sequence[Network]) -> str:
    styles = {style_of(network.modules.values()) for network in networks}
    return styles.pop() if len(styles) == 1 else "kohya"


def _widest(networks: Sequence[Network]) -> torch.dtype:
    found = {stored_dtype(network) for network in networks}
    return found.pop() if len(found) == 1 else torch.float32


def _refuse_without_base(request: NetworksMergeOptions) -> None:
    if request.weights is not None:
        return
    for items in request.work.values():
        for item in items:
            if item.patch.algorithm.reads_weight:
                name = next((n.path.name for n in request.networks if n.digest == item.digest), item.patch.name)
                raise ToolError(
                    f"{name}: {item.patch.name} is changed by {item.patch.algorithm.name}, whose change depends on the base weight; "
                    "give the checkpoint as `base_model`"
                )


def recipe_of(request: NetworksMergeOptions, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe of a merge."""
    given = {key: options[key] for key in RECORDED if options.get(key) is not None}
    base = base_entry(request.weights.checkpoint, False) if request.weights else None
    return make_recipe("networks_merge", networks=[network_entry(item) for item in request.asked], base_model=base, **given)


def sources_of(request: NetworksMergeOptions) -> list[Mapping[str, str]]:
    """Return the metadata of each network, of one that was given twice once."""
    return list({network.digest: network.metadata for network in request.networks}.values())


def joined(sources: Sequence[Mapping[str, str]], names: Sequence[str], title: str) -> dict[str, str]:
    """Return the metadata of a merge of networks.

    Args:
        sources: the metadata of each different network.
        names: of all files that were given.
        title: of the result; that of a single network stays.
    """
    first, *others = sources
    found = {SOURCES: ", ".join(names), TITLE: title}
    if not others:
        return {**found, **{key: value for key, value in first.items() if key != KEY}}
    kept = {key: value for key, value in first.items() if key not in JOINED and all(other.get(key) == value for other in others)}
    words, tags = triggers(sources), joined_counts(sources)
    return {
        **kept,
        **found,
        **({TRIGGERS: ", ".join(words)} if words else {}),
        **({FREQUENCIES: json.dumps(tags, ensure_ascii=False)} if tags else {}),
    }


def disagreed(sources: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what people wrote into the networks that the result does not say, since they differ in it."""
    return [key for key in SAID if len({metadata.get(key, "") for metadata in sources}) > 1]
