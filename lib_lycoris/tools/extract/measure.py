"""Two checkpoints -> the singular values of their difference, from which the size and the error of every extraction are known beforehand.

Both files are read in pieces, once. What was measured goes into a small file, so that a page draws its curve again without measuring.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from ...algorithms.base import flat
from ...errors import ToolError
from ...models import count_layers
from ...networks.reading.reader import open_file
from ...plain_json import parse_json
from ...wording import counted
from ..declaration import FASTEST, FilePath, Option, Plan, Result, Tool, options_of
from ..files.networks.naming import select
from ..files.output import Output, refuse_inputs, require_space
from ..files.output_name import MEASURED
from ..jobs.progress import Progress
from ..jobs.workers import count, ordered
from ..linalg.candidates import leading_values
from ..linalg.low_rank import energy, gram_svd
from ..linalg.size_curve import LEADING, CurveRequest, Layer, Part, Point, Spectra
from ..units import megabytes
from .difference import PieceBuffers, Reader, difference
from .extract import MEASURE_SECONDS
from .options import OPTIONS, ExtractOptions, Target, find_targets, understand
from .report import metadata, warnings

WHOLE_SECONDS = 1.2e-7  # for a number of the models, on two cores
MEMORY = 12  # bytes for a number of the largest tensor
PLAIN = ("name", "shape", "factorised", "text", "longest", "keys", "energy", "whole", "reserved")
KEPT = 24  # files that a cache folder keeps


def run(
    model_org: FilePath, model_tuned: FilePath, save_to: FilePath | None = None, *, style: str = "kohya", whole: bool = False,
    device: str = "cpu", progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Measure the difference of two checkpoints: the report's `curve` has size in bytes and relative error of an extraction by rank.

    Raises:
        ToolError: an option is wrong.
        ModelMismatchError: the checkpoints are of different base models.
        NetworkFormatError: a file cannot be read.
    """
    return _run(progress or Progress(), options_of(locals()))


def _run(progress: Progress, options: Mapping[str, Any]) -> Result:
    started = time.monotonic()
    request = _understand(options)
    save_to = None if options.get("save_to") is None else Path(options["save_to"])
    if save_to is not None:
        refuse_inputs(save_to, [request.base.path, request.tuned.path])
    spectra = measure(request, bool(options.get("whole")), progress)
    points = spectra.curve(CurveRequest(style=request.style))  # raises where nothing is changed
    if save_to is not None:
        write(save_to, spectra)
    warned = warnings(request.base, request.tuned)
    report = {
        "layers": sum(1 for layer in spectra.layers if layer.energy > 0),
        "identical": sum(1 for layer in spectra.layers if not layer.energy),
        "curve": [{"dim": int(p.setting), "bytes": p.bytes, "error": p.error} for p in points],
        "seconds": round(time.monotonic() - started, 2), "warnings": warned,
    }  # fmt: skip
    return Result(report, "\n".join([_table(report, points), *warned]), (save_to,) if save_to is not None else ())


def plan(**options: Any) -> Plan:
    """Say which parameters would be looked at."""
    request = _understand(options)
    targets, left_out = find_targets(request)
    numbers = sum(prod(target.shape) for target in targets)
    seconds = numbers * (WHOLE_SECONDS if options.get("whole") else MEASURE_SECONDS)
    memory = count(request.device) * MEMORY * max(prod(target.shape) for target in targets)
    report = {"matched": [target.name for target in targets], "unmatched": [list(item) for item in left_out]}
    layers = counted(count_layers(target.name for target in targets), "layer")
    return Plan(report, f"measures the differences of {layers}; nothing else is written", seconds, memory, 0)


def _understand(options: Mapping[str, Any]) -> ExtractOptions:
    known = {key: value for key, value in options.items() if key in ("model_org", "model_tuned", "style", "device") and value is not None}
    return understand({**known, "algorithm": "locon", "dim": LEADING, "embeddings": False, "text_encoder": True})


def measure(request: ExtractOptions, whole: bool = False, progress: Progress | None = None) -> Spectra:
    """Return the singular values of every parameter's difference, all of them or the leading ones."""
    progress = progress or Progress()
    targets, _ = find_targets(request)
    base, tuned, space = Reader(request.base), Reader(request.tuned), PieceBuffers()

    def look(target: Target) -> Layer:
        memory = space.get(prod(target.shape))
        found = difference(tuned, base, target.name, memory, space.scratch())
        return _layer(request, target, memory.reshape(target.shape), 0.0 if found.identical else found.energy, whole)

    progress.start(sum(prod(target.shape) for target in targets), "measuring", "weights")
    layers = []
    try:
        for target, layer in zip(targets, ordered(look, targets, count(request.device))):
            layers.append(layer)
            progress.advance(prod(target.shape), target.module)
    finally:
        base.close()
        tuned.close()
    recorded = {option.name: option.default for option in OPTIONS}
    notes = len(json.dumps(metadata(request.base, request.tuned, recorded, ())))
    return Spectra(tuple(layers), request.tuned.base.family, notes, whole)


def _layer(request: ExtractOptions, target: Target, delta: Tensor, size: float, whole: bool) -> Layer:
    component = request.tuned.base.component_of(target.module)
    text = component is not None and component.key != "unet"
    longest = max(len(name.name) for name in target.names)
    numbers = prod(target.shape) if target.suffix else 0
    keys = len(target.names) * (1 if target.suffix else 5)
    facts: dict[str, Any] = {
        "name": target.name, "shape": target.shape, "factorised": not target.suffix, "text": text, "longest": longest, "keys": keys,
        "energy": size, "whole": numbers if size else 0, "reserved": numbers,
    }  # fmt: skip
    if target.suffix or not size:
        return Layer(**facts)
    delta = delta.to(request.device)
    values = _values(delta, size, whole)
    if len(target.names) == 1:
        return Layer(**facts, values=values, parts=(Part(target.shape[0], size, values),))
    rows = [select(delta, name.rows) for name in target.names]
    parts = [(part, energy(part)) for part in rows]
    found = tuple(Part(p.shape[0], e, _values(p, e, whole) if e else torch.empty(0)) for p, e in parts)
    return Layer(**facts, values=values, parts=found)


def _values(delta: Tensor, size: float, whole: bool) -> Tensor:
    return (gram_svd(flat(delta)).s.clone() if whole else leading_values(delta, LEADING, size)).float().cpu()


def _table(report: Mapping[str, Any], points: Iterable[Point]) -> str:
    lines = [f"{counted(report['layers'], 'layer')} different, {report['identical']} the same; measured in {report['seconds']:.1f} s"]
    lines += [f"  rank {int(p.setting):>3}: {megabytes(p.bytes):>9}, relative error {p.error:.2%}" for p in points]
    return "\n".join(lines)


def cache_file(folder: Path, options: Mapping[str, Any]) -> Path:
    """Return where the spectra of two files, as they are now, are kept; raise ToolError for a file that is not there."""
    facts: list[Any] = [options.get("style") or "kohya", bool(options.get("whole"))]
    for key in ("model_org", "model_tuned"):
        path = Path(options[key]).resolve()
        try:
            state = path.stat()
        except OSError as error:
            raise ToolError(f"{path.name} cannot be read: {error.strerror}; refresh the list of files") from error
        facts += [str(path), state.st_mtime_ns, state.st_size]
    return folder / "spectra" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}.safetensors"


def write(path: Path, spectra: Spectra) -> None:
    """Write spectra to a file of their own."""
    tensors, rows = {}, []
    for index, layer in enumerate(spectra.layers):
        rows.append({**{name: getattr(layer, name) for name in PLAIN}, "parts": [(part.rows, part.energy) for part in layer.parts]})
        tensors[f"{index}"] = layer.values
        if len(layer.parts) > 1:
            tensors.update({f"{index}.{number}": part.values for number, part in enumerate(layer.parts)})
    facts = {"layers": rows, "family": spectra.family, "notes": spectra.notes, "whole": spectra.whole}
    data = serialise(tensors, {MEASURED: json.dumps(facts)})
    require_space(path.parent, len(data), path.name)
    with Output(path) as output:
        output.write(data)


def read(path: Path) -> Spectra:
    """Read spectra that :func:`write` wrote. Raises ToolError, NetworkFormatError for another file."""
    file = open_file(path)
    try:
        facts = parse_json(file.metadata[MEASURED])
        tensors = file.read(file.tensors)
        layers = tuple(_read_layer(tensors, index, row) for index, row in enumerate(facts["layers"]))
        return Spectra(layers, str(facts["family"]), int(facts["notes"]), bool(facts["whole"]))
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ToolError(f"{path.name} does not hold what measure writes; delete it and measure again") from error


def _read_layer(tensors: Mapping[str, Tensor], index: int, row: dict[str, Any]) -> Layer:
    values, parts = tensors[f"{index}"], row.pop("parts")
    kept = [values] if len(parts) == 1 else [tensors[f"{index}.{number}"] for number in range(len(parts))]
    found = tuple(Part(rows, amount, part) for (rows, amount), part in zip(parts, kept, strict=True))
    return Layer(**{**row, "shape": tuple(row["shape"])}, values=values, parts=found)


def tidy(folder: Path) -> None:
    """Remove the oldest of many kept spectra: they can be measured again."""
    files = sorted((folder / "spectra").glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    for path in files[:-KEPT]:
        path.unlink(missing_ok=True)


_SHARED = tuple(o for o in OPTIONS if o.name in ("model_org", "model_tuned", "style"))
TOOL = Tool(
    "measure", "Measure a difference", "measure how large and how exact an extraction would be, rank by rank", run, plan,
    (
        *_SHARED,
        Option("save_to", "keep the singular values in this file", Path, kind="output", makes="file"),
        Option("whole", "all singular values, which the rules quantile and sv_cumulative need; takes longer", bool, default=False),
        FASTEST,
    ),
)  # fmt: skip
