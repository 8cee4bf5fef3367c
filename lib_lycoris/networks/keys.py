"""A file's keys -> modules with their suffixes, bundled embeddings, and what is neither.

Keys are put together by the layer that they mean, not by how they spell it: a magnitude with dots belongs to factors with underscores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from .. import models
from ..algorithms import SHARED
from ..errors import NetworkFormatError, readable
from . import numbered
from .limits import alpha_counts, same_numbers
from .reading.table import TensorInfo
from .settings.name_patterns import Endings
from .settings.source import component_of
from .spellings import WHOLE, split

SLICES = re.compile(r"^(?P<module>.+)\.oft_blocks\.(?P<slice>\d+)$")  # kohya's Flux OFT: one rotation for each of q, k, v, mlp
SLICED = re.compile(r"(?P<layer>.+)\[(?P<slice>[0-9]{1,4})\]")  # what such a slice is called as a module
EMBEDDING_PARTS = (
    "string_to_param.*",
    "emb_params",
    "clip_l",
    "clip_g",
    "clip_l_out",
    "clip_g_out",
    "t5",
    "t5_out",
    "qwen",
    "*",
)
MOST_MODULES = 6_000  # three times those of the largest model
LONGEST_SUFFIX = 3  # parts of an unknown suffix that still belong to the module before them
NAMED = frozenset({"lora_up.weight", "lora_down.weight"})  # in a file of PEFT with an adapter's name, or without one in all its keys
NO_SUFFIX = "no known algorithm has a tensor of this name"


@dataclass
class Keys:
    """A file's keys, sorted out."""

    modules: dict[str, dict[str, str]] = field(default_factory=dict)  # module -> suffix -> key
    embeddings: dict[str, dict[str, str]] = field(default_factory=dict)  # embedding -> part -> key
    unknown: list[tuple[str, str]] = field(default_factory=list)  # (key, reason)
    doubtful: dict[str, str] = field(default_factory=dict)  # module that is not understood whole -> why
    twins: list[tuple[str, str, str]] = field(default_factory=list)  # (module, key, the key that says it already)

    def unused_alphas(self) -> frozenset[str]:
        """Return the keys of alphas that scale nothing."""
        return frozenset(suffixes["alpha"] for suffixes in self.modules.values() if "alpha" in suffixes and not alpha_counts(suffixes))

    def copy(self) -> Keys:
        """Return keys whose doubts and twins can be changed without these."""
        return replace(self, unknown=list(self.unknown), doubtful=dict(self.doubtful), twins=list(self.twins))

    def compare(self, tensors: Mapping[str, Tensor]) -> None:
        """Count what is said twice as unknown; where the numbers differ, nobody can tell which are meant, and the module is left out."""
        for module, key, kept in self.twins:
            if not same_numbers(tensors[key], tensors[kept]):
                differ = f"{readable(key)} and {readable(kept)} are the same tensor in two spellings, with different numbers"
                self.doubtful.setdefault(module, f"{differ}; which are meant cannot be told")
        same = "says the same in another spelling"
        self.unknown.extend({key: self.doubtful.get(module, f"{readable(kept)} {same}") for module, key, kept in self.twins}.items())
        self.twins.clear()


def sort_out(tensors: Mapping[str, TensorInfo], saved: Sequence[str] = ()) -> Keys:
    """Sort a file's keys. saved: ends of the names of modules whose parameters a config says to be whole, "*.bias" for all biases.

    Raises NetworkFormatError, in words that follow the file's name, for keys of which no network has as many.
    """
    found = Keys()
    listed, whole, biases = _numbered(tensors), Endings(f".{name}" for name in saved), "*.bias" in saved
    named: dict[str, dict[str, str]] = {}  # module -> adapter -> a key of it
    for key in tensors:
        if key.startswith("bundle_emb."):
            _add_embedding(found, key)
        elif key.startswith("_aux."):
            found.unknown.append((key, "side data of the program that wrote the file, not a weight"))
        elif ".oft_blocks." in key and (match := SLICES.match(key)):
            _add(found, f"{match['module']}[{match['slice']}]", "oft_blocks", key)
        elif parts := listed.get(key) or _saved_whole(key, whole, biases):
            _add(found, *parts, key)
        elif (spelling := split(key)) and spelling[0]:
            module, suffix, adapter = spelling
            _add(found, module, suffix, key)
            if adapter or suffix in NAMED:
                named.setdefault(module, {}).setdefault(adapter or "", key)
        else:
            found.unknown.append((key, NO_SUFFIX))
    if len(found.modules) > MOST_MODULES:
        raise NetworkFormatError(f"it holds {len(found.modules)} modules, more than any model has layers")
    found.doubtful.update(_several_adapters(named))
    _share_alpha(found)
    _share(found)
    _put_aside_weights(found)
    found.modules = joined(found, ((models.without_spelling(module), module) for module in found.modules))
    _doubt(found)
    return found


def joined(found: Keys, meanings: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Return the modules with those of one meaning made one, under the name of the first; meanings: (meaning, module).

    Two whole spellings of one layer may say the same twice, which :meth:`Keys.compare` finds out. Where both have some tensors and each, or
    one, has others besides, nobody can tell which belong together.
    """
    groups: dict[str, list[str]] = {}
    for meaning, module in meanings:
        groups.setdefault(meaning, []).append(module)
    first_of = {other: first for first, *others in groups.values() for other in others}
    result: dict[str, dict[str, str]] = {}
    for first, *others in groups.values():
        whole = dict(found.modules[first])
        for other in others:
            suffixes = found.modules[other]
            if other in found.doubtful:
                found.doubtful.setdefault(first, found.doubtful[other])
            if not suffixes.keys() & whole.keys():
                whole.update(suffixes)
            elif odd := sorted(suffixes.keys() ^ whole.keys()):
                found.doubtful.setdefault(first, _unlike(first, other, odd))
                found.unknown.extend((key, found.doubtful[first]) for key in suffixes.values())
            else:
                found.twins.extend((first, key, whole[suffix]) for suffix, key in suffixes.items())
        result[first] = whole
    found.twins = [(first_of.get(module, module), key, kept) for module, key, kept in found.twins]
    return result


def _unlike(one: str, other: str, odd: Sequence[str]) -> str:
    return f"{readable(other)} and {readable(one)} mean one layer, but only one of them has {', '.join(odd)}; which is meant cannot be told"


def _several_adapters(named: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return module -> why, of those with two adapters and of all in a component that has two; named: module -> adapter -> key."""
    if len({adapter for keys in named.values() for adapter in keys}) < 2:
        return {}
    found = {module: _two_adapters(*keys.values()) for module, keys in named.items() if len(keys) > 1}
    adapters: dict[str, dict[str, str]] = {}  # component -> adapter -> a key of it
    for module, keys in named.items():
        for adapter, key in keys.items():
            adapters.setdefault(component_of(module), {}).setdefault(adapter, key)
    several = {component: told for component, keys in adapters.items() if len(told := [key for name, key in keys.items() if name]) > 1}
    for module, keys in named.items():
        if any(keys) and (both := several.get(component_of(module))):
            found.setdefault(module, _two_adapters(*both[:2]))
    return found


def _two_adapters(one: str, other: str, *_: str) -> str:
    return f"two adapters in one file: {readable(one)} and {readable(other)}; which of them is meant cannot be told, save one of them alone"


def _numbered(tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[str, str]]:
    first = next(iter(tensors), "")
    return numbered.names({key: info.shape for key, info in tensors.items()}) if numbered.KEY.fullmatch(first) else {}


def _saved_whole(key: str, whole: Endings, biases: bool) -> tuple[str, str] | None:
    """Split a key of a parameter that PEFT saved as it is because its config says so; biases: whether it says so of every bias."""
    module, _, leaf = key.rpartition(".")
    named = leaf in WHOLE and whole.end(f".{module}")
    if named or (biases and leaf == "bias" and not module.endswith(("lora_B", "base_layer"))):
        return module, WHOLE[leaf]
    return None


def _add(found: Keys, module: str, suffix: str, key: str) -> None:
    taken = found.modules.setdefault(module, {})
    if suffix in taken:
        found.twins.append((module, key, taken[suffix]))
    else:
        taken[suffix] = key


def _doubt(found: Keys) -> None:
    """Mark the modules beside whose known tensors an unknown one stands: what it does to the others cannot be told."""
    if not found.unknown:
        return
    known = {models.without_spelling(module): module for module in found.modules}
    for key, reason in found.unknown:
        if reason != NO_SUFFIX:
            continue
        parts = key.split(".")
        for cut in range(1, min(LONGEST_SUFFIX, len(parts) - 1) + 1):
            module = known.get(models.without_spelling(".".join(parts[:-cut])))
            if module is not None:
                found.doubtful.setdefault(module, f"{readable(key)} beside it is unknown, and a layer is never applied in part")
                break


def _add_embedding(found: Keys, key: str) -> None:
    name = key.removeprefix("bundle_emb.")
    part = next((p for p in EMBEDDING_PARTS if name.endswith("." + p)), None)
    if part is None:
        found.unknown.append((key, "a bundled embedding of an unknown layout"))
    else:
        found.embeddings.setdefault(name[: -len(part) - 1], {})[part] = key


def _put_aside_weights(found: Keys) -> None:
    """Count a plain ``weight`` as unknown where it is not one of (IA)^3: it is a parameter, or a tensor of an unknown name."""
    for module in [name for name, suffixes in found.modules.items() if "weight" in suffixes and "on_input" not in suffixes]:
        suffixes = found.modules[module]
        found.unknown.append((suffixes.pop("weight"), NO_SUFFIX))
        if not suffixes:
            del found.modules[module]


def _share(found: Keys) -> None:
    """Give what a file keeps once for all layers (VeRA's matrices) to every module that needs it."""
    owners = [name for name, suffixes in found.modules.items() if suffixes.keys() <= SHARED.keys()]
    shared: dict[str, str] = {}  # suffix -> key
    doubts: dict[str, str] = {}  # suffix -> why what is shared is not sure
    for module in owners:
        for suffix, key in found.modules.pop(module).items():
            if shared.setdefault(suffix, key) != key:
                _doubt_shared(found, doubts, suffix, key, shared[suffix])
            if module in found.doubtful:
                doubts.setdefault(suffix, found.doubtful[module])
    suffix_of = {key: suffix for suffix, key in shared.items()}
    for _, key, kept in [twin for twin in found.twins if twin[2] in suffix_of]:
        _doubt_shared(found, doubts, suffix_of[kept], key, kept)
    gone = set(owners)
    found.twins = [twin for twin in found.twins if twin[0] not in gone]
    used = set[str]()
    for name, suffixes in found.modules.items():
        for suffix in [one for one in shared if SHARED[one] <= suffixes.keys()]:
            suffixes.setdefault(suffix, shared[suffix])
            used.add(suffix)
            if suffix in doubts:
                found.doubtful.setdefault(name, doubts[suffix])
    unused = "it is kept for all layers, and no layer here needs it"
    found.unknown.extend((key, unused) for suffix, key in shared.items() if suffix not in used)


def _doubt_shared(found: Keys, doubts: dict[str, str], suffix: str, key: str, kept: str) -> None:
    """Take notice of a second tensor of a kind that a file keeps once for all layers."""
    reason = f"{readable(key)} and {readable(kept)} are both kept for all layers; which is meant cannot be told"
    doubts.setdefault(suffix, reason)
    found.unknown.append((key, reason))


def _share_alpha(found: Keys) -> None:
    """Give the one alpha of a sliced module to each of its slices."""
    for module, sliced in [(name, match) for name in found.modules if name.endswith("]") and (match := SLICED.fullmatch(name))]:
        whole = found.modules.get(sliced["layer"], {})
        if "alpha" in whole:
            found.modules[module].setdefault("alpha", whole["alpha"])
    for module in [name for name, suffixes in found.modules.items() if set(suffixes) == {"alpha"} and f"{name}[0]" in found.modules]:
        del found.modules[module]
