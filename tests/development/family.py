"""Drafts a family's file from the class that diffusers has for its transformer: every layer once, in the words of models/rows.py.

A developer's command; the class is built on the meta device, so that no weight is needed:

    python3 run.py dev family Krea2Transformer2DModel --config config.json --id krea2 > lib_lycoris/models/families/krea2.py

A person then writes the names of the original model in front of those of diffusers, checks the widths with the released configuration,
and names the numbers.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

FEWEST = 5  # kinds of layers in what is a list of blocks
NUMBER = re.compile(r"\.(\d+)(?=\.|$)")
HEADER = '''"""{label}. Drafted from diffusers' {kind} ({source}).

The names are those of diffusers; the original ones and text encoders are not declared, and the released widths are not verified.
Data, tested without the class.
"""

from ..family import Blocks, Family, transformer
from ..rows import Rows, {imports}


def layers(d: int = {d}) -> Rows:
    """Yield the layers; d: width."""
'''
FOOTER = """


FAMILY = Family(
    id="{id}",
    label="{label}",
    short="{label}",
    components=(transformer(layers),),
    blocks=Blocks({sections}, last={last}),
    spellings=("{spelling}",),
    written={{"modelspec.architecture": "{id}"}},
)
"""


@dataclass(frozen=True)
class Found:
    """One layer of the class."""

    kind: str  # linear, conv, norm, Embedding, Parameter
    shape: tuple[int, ...]
    bias: bool


def found_layers(model: nn.Module) -> dict[str, Found]:
    """Return the layers with weights, and the bare parameters, by name."""
    layers: dict[str, Found] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None:
            kind = {1: "norm", 2: "Embedding" if isinstance(module, nn.Embedding) else "linear"}.get(weight.dim(), "conv")
            layers[name] = Found(kind, tuple(weight.shape), module._parameters.get("bias") is not None)
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] not in ("weight", "bias"):
            layers[name] = Found("Parameter", tuple(parameter.shape), False)
    return layers


def rows_of(layers: Mapping[str, Found]) -> list[tuple[str, Found, list[int]]]:
    """Return (name with `#`, layer, numbers of its blocks): the same layer of several blocks is one row; in the order of the class."""
    rows: dict[tuple[str, Found], list[int]] = {}
    for name, layer in layers.items():
        number = NUMBER.search(name)
        path = f"{name[: number.start()]}.#{name[number.end() :]}" if number else name
        rows.setdefault((path, layer), []).extend([int(number[1])] if number else [])
    return [(path, layer, numbers) for (path, layer), numbers in rows.items()]


def spans(numbers: Iterable[int]) -> list[range]:
    """Return numbers as ranges without gaps."""
    found: list[range] = []
    for number in sorted(numbers):
        if found and found[-1].stop == number:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found


def size(number: int, d: int) -> str:
    """Write a width as a multiple of d, if it is one."""
    if number == d:
        return "d"
    return f"{number // d} * d" if number and number % d == 0 else str(number)


def call(path: str, layer: Found, times: range | None, d: int) -> str:
    """Write one row."""
    written = [size(number, d) for number in layer.shape]
    often = [] if times is None else [f"times={times.stop}" if times.start == 0 else f"times=range({times.start}, {times.stop})"]
    if layer.kind in ("Embedding", "Parameter"):
        shape = f"({', '.join(written)}{',' if len(written) == 1 else ''})"
        parts = [f'layer("{layer.kind}", "{path}", {shape}', "bias=False", *often]
    elif layer.kind == "norm":
        parts = [f'norm("{path}", {written[0]}', *(["bias=True"] if layer.bias else []), *often]
    elif layer.kind == "conv":
        parts = [f'conv("{path}", {written[0]}, {written[1]}, {layer.shape[2:]}', *([] if layer.bias else ["bias=False"]), *often]
    else:
        parts = [f'linear("{path}", {written[0]}, {written[1]}', *([] if layer.bias else ["bias=False"]), *often]
    return f"    yield {', '.join(parts)})"


def draft(kind: str, model: nn.Module, family: str, source: str) -> str:
    """Return the text of a family's file."""
    rows = rows_of(found_layers(model))
    widths = Counter(number for _, layer, numbers in rows for number in layer.shape if number > 1 for _ in numbers or (0,))
    d = widths.most_common(1)[0][0]
    lines = [call(path, layer, span, d) for path, layer, numbers in rows for span in spans(numbers) or (None,)]
    imports = sorted({line.split("yield ", 1)[1].partition("(")[0] for line in lines})
    kinds = Counter(path.partition(".#")[0] for path, _, numbers in rows if len(numbers) > 1)
    letters = dict(zip((name for name, count in kinds.items() if count >= FEWEST), "BCDEFGHIJKLMN"))
    last = tuple(dict.fromkeys(path.partition(".")[0] for path, _, _ in rows if path.startswith(("proj_out", "norm_out", "final_layer"))))
    label = family.replace("-", " ").title()
    ends = f"({', '.join(json.dumps(name) for name in last)}{',' if len(last) == 1 else ''})"
    told = {"id": family, "label": label, "sections": json.dumps(letters), "last": ends}
    head = HEADER.format(label=label, kind=kind, source=source, imports=", ".join(imports), d=d)
    return head + "\n".join(lines) + FOOTER.format(**told, spelling="".join(c for c in family.lower() if c.isalnum()))


def built(kind: str, sizes: Mapping[str, Any]) -> nn.Module:
    """Return a class of diffusers on the meta device. Raises SystemExit with a sentence."""
    import diffusers

    found = getattr(diffusers, kind, None)
    if found is None:
        raise SystemExit(f"diffusers {diffusers.__version__} has no class {kind}")
    with torch.device("meta"):
        try:
            return found(**{name: value for name, value in sizes.items() if not name.startswith("_")})
        except TypeError as error:
            raise SystemExit(f"{kind} cannot be built: {error}") from error


def main(arguments: list[str] | None = None) -> None:
    """Print a draft."""
    parser = argparse.ArgumentParser(prog="run.py dev family", description="Draft a family's file from diffusers' class.")
    parser.add_argument("kind", metavar="CLASS", help="the class in diffusers, such as Krea2Transformer2DModel")
    parser.add_argument("--config", type=Path, help="the released config.json (default: the defaults of the class)")
    parser.add_argument("--id", help="the family's id (default: made of the class's name)")
    options = parser.parse_args(arguments)
    sizes = json.loads(options.config.read_text("utf-8")) if options.config else {}
    family = options.id or re.sub(r"(Video|Image)?(Transformer\dDModel|UNet|Model)$", "", options.kind).lower()
    source = options.config.name if options.config else "the defaults of the class"
    print(draft(options.kind, built(options.kind, sizes), family, source), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
