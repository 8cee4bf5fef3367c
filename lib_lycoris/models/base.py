"""A base model as a table of canonical names, and the look-up from the names that files use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

from .families import FAMILIES
from .family import Component
from .parameters import LayerInfo, split_part, with_part
from .rows import expand
from .spellings import PREFIXES, flat, modern, unwrap


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
        if family not in FAMILIES:
            raise ValueError(f"{family!r} is not a known family; known are {', '.join(FAMILIES)}")
        self.family = family
        self.label = FAMILIES[family].label
        self.layers: Mapping[str, LayerInfo] = dict(layers)

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
        """Write a target (`module` or `module[part]`) in the style "diffusers" or "kohya"; None if no name says it."""
        module, part = split_part(target)
        component = self.component_of(module)
        if component is None:
            return None
        alias = next((item for item in self.aliases(module) if item.part == part), None)
        if style == "diffusers":
            return alias.name if alias else None
        if component.key == "unet" and FAMILIES[self.family].kohya_native:
            path = None if part else module[len(component.prefix) :]
        else:
            path = alias.path if alias else None
        return f"{component.kohya}_{flat(path)}" if path else None

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
        name = unwrap(file_module)
        found = self._canonical.get(flat(name))
        if found is not None:
            return (found,)
        for prefix, slot in PREFIXES:
            if name.startswith(prefix):
                key = slot if slot == "unet" else FAMILIES[self.family].slots.get(slot)
                return self._in_components((key,) if key else (), flat(name[len(prefix) :]))
        return self._in_components(self._index, flat(name))

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
        for module, info in self.layers.items():
            if info.kind == "MultiheadAttention":
                names.update(_fused_names(flat(module), module))
        return names

    @cached_property
    def _index(self) -> dict[str, dict[str, str]]:
        return {item.key: self._component_index(item) for item in FAMILIES[self.family].components}

    def _component_index(self, component: Component) -> dict[str, str]:
        index: dict[str, str] = {}
        own: dict[str, str] = {}
        naming = FAMILIES[self.family].naming(component)
        for module, info in self.layers.items():
            if not module.startswith(component.prefix):
                continue
            path = module[len(component.prefix) :]
            for other, part in naming.to_other(path, info.shape):
                index[flat(other)] = with_part(module, part)
            own[flat(path)] = module
            if info.kind == "MultiheadAttention":
                own.update(_fused_names(flat(path), module))
            if path.startswith("output_blocks.") and path.endswith(".conv"):
                # Converters that know one family only write the upsampler's place of that family into all files.
                block = path.split(".")[1]
                own.setdefault(f"output_blocks_{block}_1_conv", module)
                own.setdefault(f"output_blocks_{block}_2_conv", module)
        return {**own, **index}


def _fused_names(name: str, module: str) -> dict[str, str]:
    whole = {f"{name}_in_proj": module, f"{name}_in_proj_weight": module}
    return whole | {f"{name}_{letter}_proj": f"{module}[{letter}]" for letter in "qkv"}


def base_model(family: str, layers: Mapping[str, LayerInfo]) -> BaseModel:
    """Make a base model of a live model's own modules, which may be few, small or an inpainting variant's."""
    return BaseModel(family, layers)


@cache
def reference(family: str, variant: str | None = None) -> BaseModel:
    """Give the full-size model of a family.

    A family's variants stand in its file; the first is the default. Raises KeyError.
    """
    told = FAMILIES[family]
    layers = {item.prefix + path: info for item in told.components for path, info in expand(told.rows(item, variant))}
    return BaseModel(family, layers)
