"""A network file under other names, in another dtype or as a plain LoRA: what it does stays the same.

To LoRA: LoHa becomes one of rank r², LoKr of rank r1 · r2, Tucker cores are multiplied in, all exactly; what depends on the base weight
needs `base_model` and, like full differences, a rank to be cut to.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...algorithms.base import flat
from ...errors import ToolError
from ...models import count_layers, with_part
from ...records import dataclass
from ...wording import counted
from ..declaration import FilePath, Plan, Result, Tool, options_of
from ..extract.difference import Reader
from ..files.foretold import foretold, kind_of, numbers_of, piece_of
from ..files.metadata import describe, make_recipe
from ..files.networks.alpha import alpha_notes, with_alpha
from ..files.networks.compose import Modules, dense_modules, join, lora_modules, names_of, without_numbers
from ..files.networks.growing import GrowingFile, header_room
from ..files.networks.left_out import left_out
from ..files.networks.naming import WHOLE, lora, name_of, to_dtype
from ..files.networks.network_file import Patch, bundled, carried, delta_on
from ..files.networks.peft_config import config_beside
from ..files.networks.reading_back import ReadingBack
from ..files.output import refuse_inputs
from ..jobs.cost import KEPT, Piece, cost
from ..jobs.progress import Progress
from ..jobs.workers import count, ordered
from ..linalg.expand import beside_units, plain_delta, shortened
from ..linalg.low_rank import energy, relative, residual
from ..linalg.ranks import truncated_svd
from ..units import megabytes
from .convert_options import OPTIONS, ConvertOptions, understand
from .parts import divided, is_named, not_renamed, stored_magnitude, united

KEEPS_CORES = ("kohya", "lycoris")
RECORDED = ("style", "algorithm", "dim", "rule", "value", "alpha", "save_precision", "family")


@dataclass(frozen=True)
class Converted:
    """One parameter of the new file; left: what the conversion lost of its energy."""

    parameter: str
    energy: float
    left: float
    modules: Modules
    kept: dict[str, Patch]  # by the names of modules that have the old tensors


def run(
    model: FilePath, save_to: FilePath, *, style: str | None = None, algorithm: str = "keep", base_model: FilePath | None = None,
    dim: int | None = None, rule: str = "fixed", value: float = 0.0, alpha: float | None = None, save_precision: str | None = None,
    family: str | None = None, progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Rename a network's keys, change its precision, or turn it into a plain LoRA; what it does stays the same.

    The report lists what had to be cut to a rank with its relative error (`lossy`), and the keys that were left out (`skipped`).

    Raises:
        ToolError: an option is wrong, or a change depends on base weights and `base_model` is not given.
        NetworkFormatError: the file cannot be read.
    """
    return _run(progress or Progress(), options_of(locals()))


def _run(progress: Progress, options: Mapping[str, Any]) -> Result:
    started = time.monotonic()
    request = understand(options)
    path, save_to = Path(options["model"]), Path(options["save_to"])
    refuse_inputs(save_to, [request.network.path])
    recipe = make_recipe("convert", model=describe(path), **{k: options[k] for k in RECORDED if options.get(k) is not None})
    reading = ReadingBack(request.network, save_to, request.style)
    old = carried(request.network.metadata, recipe, (), settings=reading.room)
    found: list[Converted] = []
    keys, longest = _room(request)
    try:
        with GrowingFile(save_to, keys, longest, old) as file:
            progress.start(len(request.work), "converting", "layers")
            for made in ordered(lambda key: _convert(request, key), request.work, count()):
                for name, tensors in made.modules:
                    reading.check(name, tensors, made.kept.get(name))
                    file.add(name, to_dtype(tensors, request.dtype, f"{path.name}: {name}"))
                found.append(replace(made, modules=without_numbers(made.modules)))
                progress.advance(1, made.parameter)
            for name, parts in bundled(request.network):
                file.add(name, {part: tensor.to(request.dtype) for part, tensor in parts.items()})
            file.finish(_metadata(request, recipe, found, reading.metadata))
            size, notes = file.size, alpha_notes(file.keys, request.alpha)
    finally:
        if request.weights is not None:
            request.weights.close()
    beside, said = config_beside(save_to, request.style, [module for made in found for module in made.modules])
    return _result(request, [save_to, *beside], found, size, [*request.names_kept_or_guessed(), *notes, *said], time.monotonic() - started)


def plan(**options: Any) -> Plan:
    """Say what would be converted, and how large the file would be."""
    request = understand(options)
    path, save_to = Path(options["model"]), Path(options["save_to"])
    recipe = make_recipe("convert", model=describe(path), **{k: options[k] for k in RECORDED if options.get(k) is not None})
    old = carried(request.network.metadata, recipe, (), settings=ReadingBack(request.network, save_to, request.style).room)
    alike = request.rule is None or request.rule.kind == "fixed"

    def kind(key: tuple[str, str]) -> Hashable:
        names = names_of(request.base, request.style, key[0])
        return (len(names), *(kind_of(patch, names) for patch in request.work[key])) if alike else key

    try:
        made = foretold(request.work, kind, lambda key: _foretold(request, key))
    finally:
        if request.weights is not None:
            request.weights.close()
    numbers = sum(number for number, _ in made) + sum(tensor.numel() for _, parts in bundled(request.network) for tensor in parts.values())
    size = header_room(*_room(request), old) + numbers * torch.empty(0, dtype=request.dtype).element_size()
    unmatched = [list(item) for item in request.network.skipped]
    report = {"matched": [f"{module}.{leaf}" for module, leaf in request.work], "unmatched": unmatched}
    text = f"converts {counted(len({module for module, _ in request.work}), 'layer')} to the {request.style} key style; {megabytes(size)}"
    text = "\n".join([text, *left_out(request.network.skipped), *request.names_kept_or_guessed()])
    took = cost([piece for _, piece in made], path.stat().st_size, size)
    return Plan(report, text, took.seconds, took.bytes + int(KEPT * size), size)


def _foretold(request: ConvertOptions, key: tuple[str, str]) -> tuple[int, Piece]:
    """Return how many numbers a parameter becomes, and the work on it: factors that stay what they are need none."""
    ranked = [piece_of(patch, whole=request.to_lora) for patch in request.work[key]]
    largest = max(ranked, key=lambda piece: piece.bytes)
    return numbers_of(_convert(request, key).modules), replace(largest, decomposed=request.rule is not None or largest.whole > 0)


def _room(request: ConvertOptions) -> tuple[int, int]:
    """Return how many keys the new file can have, and how many characters the longest of them."""
    keys = 4 * len(request.network.embeddings)
    for (module, _), items in request.work.items():
        most = max(max(3, len(patch.algorithm.to_state_dict()) + 1) for patch in items)
        keys += most * max(len(items), len(names_of(request.base, request.style, module)))
    return keys, max((len(module) for module, _ in request.work), default=0) + 80


def _convert(request: ConvertOptions, key: tuple[str, str]) -> Converted:
    module, leaf = key
    items = request.work[key]
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    dense: dict[str, Tensor] = {}
    modules: Modules = []
    kept: dict[str, Patch] = {}
    total = left = 0.0
    direct = is_named(request.base, request.style, module, items)
    if not request.to_lora and not direct and (one := united(request.base, request.style, module, items)):
        return Converted(items[0].name.partition("[")[0], 0.0, 0.0, [(one[0], with_alpha(one[1], request.alpha))], kept)
    for patch in items:
        if leaf == "weight" and len(patch.shape) > 1:
            if several := _divided(request, patch):
                modules += [(name, _kept(request, _with_alpha(request, part))) for name, part in several.items()]
                continue
            if _stays(request, patch, direct):
                name, same = _own_name(request, patch), _with_alpha(request, patch)
                modules.append((name, _kept(request, same)))
                if modules[-1][1].keys() == same.algorithm.to_state_dict().keys():
                    kept[name] = same
                continue
            *pair, size, lost = _factors(request, patch)
            pairs[patch.part] = (pair[0], pair[1])
            total, left = total + size, left + lost
        else:
            dense[patch.part] = _delta(request, patch)
    for part, (up, down) in join(request.base, request.style, module, pairs).items() if pairs else ():
        made = lora_modules(request.base, request.style, module, part, *shortened(up, down))
        modules += [(name, with_alpha(tensors, request.alpha)) for name, tensors in made]
    if dense:
        modules += dense_modules(request.base, request.style, module, leaf, dense)
    return Converted(items[0].name.partition("[")[0], total, left, modules, kept)


def _divided(request: ConvertOptions, patch: Patch) -> dict[str, Patch]:
    """Return name -> change of the rows of a change that has no name as a whole, where it keeps its form and can be divided."""
    lora = patch.algorithm.is_lora
    becomes_lora = request.style not in KEEPS_CORES if lora else patch.algorithm.low_rank(patch.shape) is not None
    return {} if request.to_lora or becomes_lora else divided(request.base, request.style, patch)


def _stays(request: ConvertOptions, patch: Patch, direct: bool) -> bool:
    """Tell whether a module keeps its tensors and only gets another name."""
    algorithm = patch.algorithm
    if algorithm.is_lora:
        return direct and request.style in KEEPS_CORES and not (request.to_lora and "lora_mid.weight" in algorithm.tensors())
    if request.to_lora:
        return False
    if not direct and algorithm.low_rank(patch.shape) is not None:
        return False
    if not direct:
        raise ToolError(not_renamed(request.style, patch))
    return True


def _own_name(request: ConvertOptions, patch: Patch) -> str:
    if patch.part:
        return name_of(request.base, request.style, with_part(patch.module, patch.part)) or patch.module
    item = names_of(request.base, request.style, patch.module)[0]
    return item.name if item.rows == (WHOLE,) else patch.module


def _with_alpha(request: ConvertOptions, patch: Patch) -> Patch:
    made = None if request.alpha is None else patch.algorithm.with_alpha(request.alpha)
    return patch if made is None else replace(patch, algorithm=made)


def _kept(request: ConvertOptions, patch: Patch) -> dict[str, Tensor]:
    algorithm = patch.algorithm
    magnitude = algorithm.output_magnitude(patch.shape)
    pair = algorithm.direction.low_rank(patch.shape)
    if request.style in KEEPS_CORES or magnitude is None or pair is None:
        return algorithm.to_state_dict()
    return {**lora(request.style, *pair, patch.shape[2:]), **stored_magnitude(request.style, magnitude, len(patch.shape))}


def _delta(request: ConvertOptions, patch: Patch) -> Tensor:
    if not patch.algorithm.reads_weight:
        return plain_delta(patch.algorithm, patch.shape)
    return delta_on(patch, request.base, _reader(request, patch).read)


def _reader(request: ConvertOptions, patch: Patch) -> Reader:
    """Return what reads the base weight of a change. Raises ToolError when it is not given."""
    if request.weights is None or not request.weights.has(patch.name):
        raise ToolError(
            f"{request.network.path.name}: {patch.name} is changed by {patch.algorithm.name}, whose change depends on the base weight; "
            "give the checkpoint as `base_model`"
        )
    return request.weights


def _factors(request: ConvertOptions, patch: Patch) -> tuple[Tensor, Tensor, float, float]:
    """Return up, down, the energy of the change and what of it is lost."""
    weight = _reader(request, patch).read(patch.name, patch.shape) if patch.algorithm.reads_weight else None
    pair = patch.algorithm.low_rank(patch.shape, weight)
    if pair is not None:
        return *pair, 0.0, 0.0
    delta = flat(plain_delta(patch.algorithm, patch.shape) if weight is None else patch.algorithm.delta(weight))
    size = energy(delta)
    if not size:
        return delta.new_zeros(delta.shape[0], 1), delta.new_zeros(1, delta.shape[1]), 0.0, 0.0
    if request.rule is None:
        return *beside_units(delta), size, 0.0
    svd = truncated_svd(delta, request.rule, size)
    lost = 0.0 if svd.rank == min(delta.shape) else residual(delta, svd)
    return *svd.factors(), size, lost


def _metadata(
    request: ConvertOptions, recipe: Mapping[str, Any], found: Sequence[Converted], settings: Mapping[str, str]
) -> dict[str, str]:
    ranks = [
        tensor.shape[0]
        for made in found
        for _, t in made.modules
        for key, tensor in t.items()
        if key in ("lora_down.weight", "lora_A.weight")
    ]
    plain = all(key.startswith(("lora_", "alpha")) for made in found for _, t in made.modules for key in t)
    return carried(request.network.metadata, recipe, ranks, plain, settings=settings, alpha=request.alpha)


def _result(request: ConvertOptions, outputs: list[Path], found: list[Converted], size: int, notes: list[str], seconds: float) -> Result:
    total, left = sum(made.energy for made in found), sum(made.left for made in found)
    skipped = request.network.skipped
    lossy = [{"parameter": m.parameter, "error": relative(m.left, m.energy)} for m in found if m.left > 0]
    report = {
        "parameters": len(found), "lossy": lossy, "error": relative(left, total),
        "skipped": [list(item) for item in skipped],
        "notes": notes, "bytes": size, "seconds": round(seconds, 2),
    }  # fmt: skip
    whole = "these are exact but for rounding" if skipped else "nothing is lost but rounding"
    exact = f"{len(lossy)} of them are cut to a rank (relative error {report['error']:.2%})" if lossy else whole
    layers = counted(count_layers(made.parameter for made in found), "layer")
    lines = [f"{outputs[0].name}: {layers} in the {request.style} key style, {megabytes(size)}; {exact}"]
    return Result(report, "\n".join([*lines, *left_out(skipped), *notes]), tuple(outputs))


TOOL = Tool("convert", "Convert", "rename keys, change precision, or turn any network into a plain LoRA", run, plan, OPTIONS)
