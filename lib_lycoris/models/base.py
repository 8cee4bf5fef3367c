"""A base model as a table of canonical names, and the look-up from the names that files use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache, cached_property
from itertools import pairwise

from ..errors import UnknownFamilyError
from ..records import dataclass
from .families import FAMILIES, UNKNOWN
from .family import UNET_PREFIX, Component, Family
from .parameters import LayerInfo, rows, split_part, with_part
from .rows import expand
from .spellings import ENCODERS, flat, fused_parts, modern, split_prefix, unwrap
from .stored import Shapes, layer_shape


@dataclass(frozen=True)
class Alias:
    """Name a canonical module, or one part of it, as diffusers and transformers do."""

    component: str  # attribute of the pipeline: unet, transformer, text_encoder, text_encoder_2, text_encoder_3
    path: str  # inside that component
    part: str | None

    @property
    def name(self) -> str:
        """Give the dotted name inside a whole pipeline."""
        return f"{self.component}.{self.path}"


class BaseModel:
    """The modules of one base model under canonical names."""

    def __init__(self, family: str, layers: Mapping[str, LayerInfo]) -> None:
        if family not in FAMILIES and family != UNKNOWN.id:
            raise ValueError(f"{family!r} is not a known family; known are {', '.join(FAMILIES)}")
        self.family = family
        self.label = FAMILIES[family].label
        self.layers: Mapping[str, LayerInfo] = dict(layers)

    def plain_inputs(self, module: str) -> int | None:
        """Return how many inputs the plain model has where another may have more (Fill, inpainting); None for all other layers."""
        told = FAMILIES[self.family]
        path = module.removeprefix(UNET_PREFIX)
        if path not in told.wider:
            return None
        unet = next(item for item in told.components if item.key == "unet")
        return next((row.shape[1] for row in told.rows(unet) if row.path == path), None)

    def component_of(self, module: str) -> Component | None:
        """Give the component that a canonical module or parameter belongs to, or None for a foreign name."""
        return next((item for item in FAMILIES[self.family].components if module.startswith(item.prefix)), None)

    def aliases(self, module: str) -> tuple[Alias, ...]:
        """List the diffusers names of a canonical module, each with the part that it names; empty if it has none."""
        component = self.component_of(module)
        if component is None or module not in self.layers:
            return ()
        path = module[len(component.prefix) :]
        found = FAMILIES[self.family].naming(component).to_other(path, self.layers[module].shape)
        return tuple(Alias(component.pipeline, other, part) for other, part in found)

    def name_in(self, style: str, target: str) -> str | None:
        """Write a target (`module` or `module[part]`) in the style "diffusers", "kohya" or "original"; None if no name says it."""
        module, part = split_part(target)
        component = self.component_of(module)
        if component is None:
            return None
        alias = next((item for item in self.aliases(module) if item.part == part), None)
        if style == "diffusers":
            return alias.name if alias else None
        if style == "original":
            return self._original_name(component, target, alias)
        if component.key == "unet" and FAMILIES[self.family].kohya_native:
            path = None if part else module[len(component.prefix) :]
        else:
            path = alias.path if alias else None
        return f"{component.kohya}_{flat(path)}" if path else None

    @staticmethod
    def _original_name(component: Component, target: str, alias: Alias | None) -> str | None:
        """Write a target as ComfyUI does: the transformer as its authors released it, text encoders as transformers names them."""
        if component.key == "unet" or component.inside:
            return None if target.endswith("]") else target
        encoder = next((slot for slot in component.slots if slot in ENCODERS), None)
        return f"text_encoders.{encoder}.transformer.{alias.path}" if encoder and alias else None

    def find(self, file_module: str) -> str | None:
        """Find the target that a file's module name means, in any known key style; None if this model lacks it.

        A name with the prefix of a component is looked up in that component only. A name without one is tried in
        the UNet first, then in the text encoders in order.
        """
        return next(iter(self.find_all(file_module)), None)

    def find_all(self, file_module: str) -> tuple[str, ...]:
        """List every target that a name can mean, the one of `find` first.

        Only a name without a component's prefix can mean several: a bare CLIP layer on a model with two text encoders.
        """
        if file_module in self.layers:
            return (file_module,)
        found = self._canonical.get(flat(unwrap(file_module)))
        if found is not None:
            return (found,)
        return self._in_components(*self._place_of(file_module))

    def targets(self, file_module: str) -> tuple[str, ...]:
        """List the targets that a file's module name means together, their rows one after the other; empty if this model lacks one.

        They are several where one adapter was trained over several layers (`to_qkv`); parts of one layer that follow each other are one.
        """
        found = self.find(file_module)
        if found is not None:
            return (found,)
        keys, path = self._place_of(file_module)
        for names in fused_parts(path):
            parts = [next(iter(self._in_components(keys, name)), None) for name in names]
            if all(parts):
                return joined_targets([part for part in parts if part], self.layers)
        return ()

    def _place_of(self, file_module: str) -> tuple[tuple[str, ...], str]:
        """Return the components that a name's prefix means, all of them without one, and the flattened path in them."""
        slot, path = split_prefix(file_module)
        key = slot if slot in (None, "unet") else FAMILIES[self.family].slots.get(slot)
        return (tuple(self._index) if slot is None else (key,) if key else ()), path

    def _in_components(self, keys: Iterable[str], path: str) -> tuple[str, ...]:
        """Look a flattened path up in components; an old spelling only if no component knows it as it stands."""
        indexes = [self._index[key] for key in keys if key in self._index]
        found = tuple(index[path] for index in indexes if path in index)
        if found:
            return found
        path = modern(path)
        return tuple(index[path] for index in indexes if path in index)

    @cached_property
    def _canonical(self) -> dict[str, str]:
        names = {flat(module): module for module in self.layers}
        for component in FAMILIES[self.family].components:
            prefix = flat(component.prefix)
            for module in self._modules[component.key]:
                if self.layers[module].kind == "MultiheadAttention":
                    names.update({prefix + name: target for name, target in self._names(component, module)})
        return names

    @cached_property
    def _modules(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {item.key: [] for item in FAMILIES[self.family].components}
        for module in self.layers:
            component = self.component_of(module)
            if component is not None:
                found[component.key].append(module)
        return found

    @cached_property
    def _index(self) -> dict[str, dict[str, str]]:
        components = FAMILIES[self.family].components
        found: dict[str, dict[str, str]] = {}
        for item in components:
            table = found.setdefault(item.key, {})
            for module in self._modules[item.key]:
                for name, target in self._names(item, module):
                    table.setdefault(name, target)
        for item in components:
            for module in self._modules[item.key] if item.inside else ():
                for table in found.values():
                    table[flat(item.inside + module[len(item.prefix) :])] = module
        return found

    def _names(self, component: Component, module: str) -> Iterator[tuple[str, str]]:
        """Yield the flattened names of a layer inside its component with the targets that they mean, the commonest first."""
        path, shape = module[len(component.prefix) :], self.layers[module].shape
        for name, part in FAMILIES[self.family].naming(component).spellings(path, shape):
            yield flat(name), with_part(module, part)


def joined_targets(parts: list[str], layers: Mapping[str, LayerInfo]) -> tuple[str, ...]:
    """Return parts of layers with those that make up one layer, or its first three parts, as one."""
    modules = {split_part(part)[0] for part in parts}
    if len(modules) > 1:
        return tuple(parts)
    (module,) = modules
    shape = layers[module].shape
    pieces = [piece for part in parts for piece in rows(split_part(part)[1], shape)]
    follow = all(before.stop == after.start for before, after in pairwise(pieces))
    if follow and pieces[0].start == 0 and pieces[-1].stop == shape[0]:
        return (module,)
    return (with_part(module, "qkv"),) if follow and pieces[0].start == 0 and pieces[-1].stop == 3 * shape[1] else tuple(parts)


def base_model(family: str, layers: Mapping[str, LayerInfo]) -> BaseModel:
    """Make a base model of a live model's own modules, which may be few, small or an inpainting variant's."""
    return BaseModel(family, layers)


def of_file(modules: Mapping[str, Shapes]) -> BaseModel:
    """Make a base model of the layers that a file of an unknown family changes: `module -> suffix -> shape`, under the file's own names."""
    shapes = {module: layer_shape(suffixes) for module, suffixes in modules.items()}
    kinds = {1: "LayerNorm", 2: "Linear", 3: "Conv1d", 4: "Conv2d", 5: "Conv3d"}
    layers = {module: LayerInfo(kinds[len(shape)], shape, True) for module, shape in shapes.items() if shape and len(shape) in kinds}
    return BaseModel(UNKNOWN.id, layers)


def together(models: Iterable[BaseModel]) -> BaseModel:
    """Return one base model for several networks of a family: of an unknown one the layers of all, else the first."""
    first, *others = models
    if first.family != UNKNOWN.id:
        return first
    return BaseModel(UNKNOWN.id, {module: info for model in (*others[::-1], first) for module, info in model.layers.items()})


def family_of(family: str) -> Family:
    """Give a family by its id. Raises UnknownFamilyError with the nearest ones."""
    if family not in FAMILIES and family != UNKNOWN.id:
        near = get_close_matches(family.lower(), FAMILIES, 3, 0.4) or list(FAMILIES)
        raise UnknownFamilyError(f'"{family}" is no base model family known here; do you mean {", ".join(near)}?')
    return FAMILIES[family]


@cache
def reference(family: str, variant: str | None = None) -> BaseModel:
    """Give the full-size model of a family.

    A family's variants stand in its file; the first is the default. Raises UnknownFamilyError.
    """
    told = family_of(family)
    if variant is not None and variant not in told.variants:
        raise UnknownFamilyError(f'{told.label} has no variant "{variant}"; there are {", ".join(filter(None, told.variants)) or "none"}')
    layers = {item.prefix + path: info for item in told.components for path, info in expand(told.rows(item, variant))}
    return BaseModel(family, layers)
