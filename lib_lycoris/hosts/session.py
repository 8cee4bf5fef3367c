"""Tags -> activations and problems: each network is found by name, read and resolved; what is wrong with one costs that one only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from pathlib import Path

from ..errors import LycorisError
from ..models import count_layers
from ..networks import Network
from ..patching import Activation, Patcher, Report
from ..prompt import Presets, StrengthMap, Tag, TagError, resolve
from ..records import dataclass
from ..wording import counted
from .library.cache import NetworkCache
from .library.library import Library


@dataclass(frozen=True)
class ResolvedTag:
    """One tag that was understood, and its network with the strengths that it asks for."""

    tag: Tag
    network: Network
    strength: StrengthMap
    stamp: tuple[int, int]  # time and size of the file when it was read


@dataclass
class Plan:
    """What the tags of one prompt come to on one model."""

    activations: list[Activation] = field(default_factory=list)
    networks: dict[str, Network] = field(default_factory=dict)  # by the name in the tag
    chosen: list[ResolvedTag] = field(default_factory=list)  # of each activation, in their order
    refused: list[str] = field(default_factory=list)  # why a tag is left out, one sentence each
    problems: list[str] = field(default_factory=list)  # these and what else there is to tell, one sentence each
    effects: list[tuple[object, ...]] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """A hash of all that the text encoders' output depends on besides the text of the tags."""
        return hashlib.sha256(repr(sorted(self.effects, key=repr)).encode()).hexdigest()

    def refuse(self, sentence: str) -> None:
        """Take notice of a tag that is left out."""
        self.refused.append(sentence)
        self.problems.append(sentence)

    def take(self, report: Report, steps: int) -> tuple[str, ...]:
        """Keep what the model took, and return a sentence on each network; those that it did not take are refused."""
        matched = {item.name: item.matched for item in report.networks}
        if any(one.network.name not in matched for one in self.chosen):
            self.refused += [note for note in report.notes if not note.startswith(tuple(f"{name}: " for name in matched))]
        self.chosen = [one for one in self.chosen if one.network.name in matched]
        told = []
        for one in self.chosen:
            name = one.network.name
            on = [parameter for parameter in one.network.patches if not one.strength.is_off([parameter], steps)]
            layers = min(count_layers(on), matched[name])
            told.append(f"{name}{_at(one.tag)}: changes {counted(layers, 'layer')}")
            if not on and not one.network.embeddings and not one.tag.notes:
                self.problems.append(f"{name}: its strength is 0 on all that it has, so it changes nothing")
        return tuple(told)


def _at(tag: Tag) -> str:
    te, te2, unet = tag.te.format(), tag.te2.format(), tag.unet.format()
    if te == te2 == unet:
        return f" at {unet}"
    return f" at te {te}, unet {unet}" if te == te2 else f" at te {te}, te2 {te2}, unet {unet}"


class Session:
    """The files and presets that tags name, and the networks that are in memory."""

    def __init__(self, library: Library, presets: Callable[[], Presets], other_family: Callable[[], bool] = bool) -> None:
        self.library = library
        self.presets = presets  # asked for each image: their file may have changed
        self.other_family = other_family  # whether a network of another family is put on the layers that fit
        self.cache = NetworkCache()
        self._stamps: dict[Path, tuple[int, int]] = {}

    def plan(self, tags: Sequence[Tag | TagError], model: Callable[[], tuple[Patcher, object]], seed: int, hires: bool = False) -> Plan:
        """Return the activations of tags for a model.

        model: returns its patcher and what tells models apart for which a file may mean different things, or raises HostError while there
        is none; seed: the image's, for random block weights; hires: whether the strengths of the hires pass are meant.
        """
        plan = Plan()
        for tag in tags:
            if isinstance(tag, TagError):
                plan.refuse(str(tag))
                continue
            try:
                self._add(plan, tag, *model(), seed, hires)
            except LycorisError as error:
                plan.refuse(str(error))
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one file, the other tags keep their effect
                plan.refuse(f"{tag.name} cannot be used: {str(error) or type(error).__name__}")
        return plan

    def _add(self, plan: Plan, tag: Tag, patcher: Patcher, model: object, seed: int, hires: bool) -> None:
        strength = resolve(tag, patcher.base.family, seed, self.presets(), hires)
        file = self.library.find(tag.name)
        path = file.path
        network, stamp = self.cache.get(path, patcher.base, model, patcher.dtype, self.other_family())
        if network.name != file.name:
            network = replace(network, name=file.name)  # of a folder that PEFT saved
        if self._stamps.get(path, stamp) != stamp:
            patcher.restore()  # what was prepared of the file's old content goes with it
        self._stamps[path] = stamp
        plan.activations.append(Activation(network, strength, tag.dyn))
        plan.networks[tag.name] = network
        plan.chosen.append(ResolvedTag(tag, network, strength, stamp))
        plan.effects.append((network.digest, stamp, tag.dyn, strength.digest))
        plan.problems += strength.notes
