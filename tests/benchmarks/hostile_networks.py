"""Small network files that mean much - many names, long numbers, large products, patterns - and what hosts and tools do with them."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lib_lycoris import load
from lib_lycoris.hosts.library.facts import Describer, read_names
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.examine.inspect import inspect
from tests import samples
from tests.fuzz.mutations import METADATA_KEYS
from tests.networks.hostile_files import HEADERS, PICKLES, raw

from .hostile_surface import DEEP, DIGITS, SMALL, Surface, Use

FOLDER = "networks"  # beside the good files: what lies beside one network speaks of every one there
LAYERS = 5_000  # of a LoRA whose table of tensors fills a small file
LARGEST_LAYER = 1 << 16
OF_PLACES = ("lora_sparse", "shira", "supertuning", "supertuning_supra")  # their samples are drawn from all places of a weight
Shapes = Mapping[str, tuple[int, ...]]


def found(folder: Path) -> Path:
    """Return the hostile file."""
    return next(path for path in (folder / FOLDER).iterdir() if path.stem == "odd")


def write(folder: Path, shapes: Shapes, metadata: Mapping[str, Any] | None = None, config: Any = None) -> None:
    """Write a network of half precision zeros, and PEFT's config beside it."""
    table: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        table[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    raw(folder / FOLDER / "odd.safetensors", json.dumps(table, separators=(",", ":")).encode(), bytes(end))
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config, separators=(",", ":"))
        (folder / FOLDER / "adapter_config.json").write_text(text, "utf-8")


def lora(modules: Iterable[str], up: str = "lora_up.weight", down: str = "lora_down.weight") -> dict[str, tuple[int, ...]]:
    """Return the shapes of a LoRA of rank 1 on layers of one weight."""
    return {f"{module}.{half}": (1, 1) for module in modules for half in (up, down)}


def of_algorithm(name: str, folder: Path) -> None:
    """Write the largest layer of an algorithm that still is a small file."""
    generator, chosen, size = torch.Generator().manual_seed(0), {}, 16
    while size <= (8192 if name in OF_PLACES else LARGEST_LAYER):
        made = {f"model.layer.{suffix}": value for suffix, value in samples.LINEAR[name](generator, (size, size)).items()}
        made = {key: value.half() if value.is_floating_point() else value for key, value in made.items()}
        if sum(value.numel() * value.element_size() for value in made.values()) > SMALL - 20_000:
            break
        chosen, size = made, size * 2
    save_file({key: value.contiguous() for key, value in chosen.items()}, folder / FOLDER / "odd.safetensors", samples.metadata(name))


def archive(folder: Path, members: Iterable[tuple[str, bytes]], packed: bool = False) -> None:
    """Write a zip under the name of a file of torch.save."""
    with zipfile.ZipFile(folder / FOLDER / "odd.pt", "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as new:
        for name, data in members:
            new.writestr(name, data)


def nested_zip(folder: Path) -> None:
    """Write a packed archive of packed archives of 100 MB of zeros each."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("archive/data.pkl", bytes(100_000_000))
    archive(folder, ((f"archive/data/{number}", inner.getvalue()) for number in range(8)), packed=True)


def lying_zip(folder: Path) -> None:
    """Write a file of torch.save whose storage is said to hold 4 GB."""
    path = folder / FOLDER / "odd.pt"
    torch.save({"a.lora_up.weight": torch.ones(9), "a.lora_down.weight": torch.ones(9)}, path)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(b"/data/0"))
    content[at + 20 : at + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    path.write_bytes(content)


def long_pickle(folder: Path) -> None:
    """Write a pickle of a million instructions."""
    (folder / FOLDER / "odd.pt").write_bytes(b"\x80\x02" + b"]0" * (SMALL // 2 - 10) + b"N.")


def self_made_of(folder: Path) -> None:
    """Write a pickle of tables in which each holds the one before it many times."""
    layers = b"".join(b"](" + b"h" + bytes([number]) + (b"h" + bytes([number])) * 9 + b"eq" + bytes([number + 1]) for number in range(200))
    (folder / FOLDER / "odd.pt").write_bytes(b"\x80\x02]q\x00" + layers + b".")


UNDERSCORED, DOTTED = "lora_unet_a_{}", "unet.a.{}"
NAMES: dict[str, Callable[[], Shapes]] = {
    "many layers": lambda: lora(f"a{n}" for n in range(LAYERS)),
    "many layers of a model": lambda: lora(f"lora_unet_down_blocks_{n}_attn" for n in range(LAYERS - 900)),
    "layers in two spellings": lambda: {
        **lora(UNDERSCORED.format(n) for n in range(LAYERS // 2)),
        **lora((DOTTED.format(n) for n in range(LAYERS // 2)), "lora_B", "lora_A"),
    },
    "layers beyond all": lambda: {f"a{n}.diff_b": (1,) for n in range(3 * LAYERS)},
    "alphas alone": lambda: {f"a{n}.alpha": () for n in range(2 * LAYERS)},
    "shared matrices": lambda: {
        **{f"a{n}.vera_A": (1, 1) for n in range(LAYERS)}, **{f"b{n}.vera_lambda_{x}": (1,) for n in range(LAYERS // 2) for x in "bd"},
    },
    "slices": lambda: {f"a.oft_blocks.{n}": (1, 1, 1) for n in range(2 * LAYERS)},
    "adapters": lambda: {f"a.lora_{half}.x{n}.weight": (1, 1) for n in range(LAYERS) for half in "AB"},
    "words": lambda: {f"bundle_emb.a{n}.string_to_param.*": (1, 4) for n in range(2 * LAYERS)},
    "unknown beside known": lambda: {**lora(f"a.b{n}" for n in range(LAYERS // 2)), **{f"a.b{n}.c.d": (1,) for n in range(LAYERS)}},
    "numbered pairs": lambda: {f"unet:{n}:{half}": (1, 1) for n in range(LAYERS) for half in ("up", "down")},
    "a name of dots": lambda: {"." * 900_000 + "lora_up.weight": (1, 1)},
    "a name of parts": lambda: {"a." * 450_000 + "lora_up.weight": (1, 1), "a." * 30_000 + "alpha": ()},
    "a name of wrappers": lambda: lora(["lycoris_" * 50_000, "base_model.model." * 5_000]),
    "a name of underscores": lambda: lora(["lora_unet_" + "_" * 400_000]),
    "a name of lines": lambda: lora(["transformer_blocks_" * 20_000]),
    "processors": lambda: {".processor.to_q_lora" * 40_000 + ".down.weight": (1, 1)},
    "saved modules": lambda: {".modules_to_save" * 50_000 + ".weight": (1, 1)},
    "digits in a name": lambda: {f"a.oft_blocks.{DIGITS}": (1, 1, 1), f"lora_unet_down_blocks_{DIGITS}.alpha": ()},
    "parts of one layer": lambda: lora(f"a[{n}]" for n in range(LAYERS)),
}  # fmt: skip
RANKS = {f"x.{n}": 1 for n in range(40_000)}
REGULAR = [f"a{n}.*(b|c)*[0-9]+d" for n in range(20_000)]
CONFIGS: dict[str, tuple[Any, str]] = {  # config -> and the kind of network beside it
    "rank_pattern of names": ({"r": 1, "lora_alpha": 1, "rank_pattern": dict(list(RANKS.items())[:19_000])}, "lora"),
    "rank_pattern beyond all": ({"r": 1, "rank_pattern": RANKS}, "lora"),
    "alpha_pattern of names": ({"r": 1, "lora_alpha": 1, "alpha_pattern": dict(list(RANKS.items())[:19_000])}, "lora"),
    "rank_pattern of expressions": ({"r": 1, "rank_pattern": dict.fromkeys(REGULAR, 1)}, "lora"),
    "a long expression": ({"r": 1, "rank_pattern": {"(a|b|.)*" * 60: 1}}, "lora"),
    "an expression of many states": ({"r": 1, "rank_pattern": {".*a" + "." * 480 + "(a|b)": 1}}, "letters"),
    "a pattern of 1 MB": ({"r": 1, "rank_pattern": {"a" * 900_000: 1, "(" * 900: 1}}, "lora"),
    "feedforward_modules": ({"peft_type": "IA3", "feedforward_modules": list(RANKS)}, "ia3"),
    "feedforward expression": ({"peft_type": "IA3", "feedforward_modules": "(a|b|.)*" * 60}, "ia3"),
    "modules_to_save": ({"r": 1, "lora_alpha": 1, "modules_to_save": list(RANKS)}, "weights"),
    "40,000 settings": ({"r": 1, "lora_alpha": 1, **{f"x{n}": n for n in range(40_000)}}, "lora"),
    "a setting of 1 MB": ({"r": 1, "lora_alpha": "x" * 900_000}, "lora"),
    "a type of 1 MB": ({"peft_type": "x" * 900_000}, "lora"),
    "a list for a number": ({"r": list(range(100_000)), "lora_alpha": 1}, "lora"),
    "16,000 digits": ('{"r": 1, "lora_alpha": ' + DIGITS + "}", "lora"),
    "deep": ('{"r": ' + DEEP, "lora"),
    "num_cayley_neumann_terms": ({"peft_type": "OFT", "use_cayley_neumann": True, "num_cayley_neumann_terms": 10**8}, "oft"),
    "Cayley terms of many layers": ({"peft_type": "OFT", "use_cayley_neumann": True, "num_cayley_neumann_terms": 100}, "oft"),
}  # fmt: skip
BESIDE: dict[str, Callable[[], Shapes]] = {
    "lora": lambda: lora((f"base_model.model.a{n}" for n in range(LAYERS // 2)), "lora_B.weight", "lora_A.weight"),
    "letters": lambda: lora(("".join(random.Random(n).choices("ab", k=400)) for n in range(600)), "lora_B.weight", "lora_A.weight"),
    "ia3": lambda: {f"base_model.model.a{n}.ia3_l": (1, 1) for n in range(LAYERS)},
    "weights": lambda: {f"base_model.model.a{n}.weight": (1, 1) for n in range(LAYERS)},
    "oft": lambda: {f"base_model.model.a{n}.oft_R.weight": (4, 6) for n in range(LAYERS // 2)},
}
ENTRIES = (
    *METADATA_KEYS, "ss_bucket_info", "ss_dataset_dirs", "ss_datasets", "ssmd_cover_images", "modelspec.title", "modelspec.thumbnail",
)  # fmt: skip
TEXTS = {
    "deep": DEEP, "deep tables": '{"a":' * 30_000, "16,000 digits": DIGITS, "digits in a table": '{"a": {"b": ' + DIGITS + "}}",
    "a long text": "x" * 30_000, "tags": json.dumps({"1_a": {f"tag {n}": n for n in range(1_500)}}),
    "marks": "\u202e" * 5_000, "a list": json.dumps(list(range(5_000))), "brackets": "<" * 30_000, "commas": "," * 30_000,
    "a time": "9" * 300, "exponent": "1e999999999",
}  # fmt: skip
LARGE_TEXTS = {
    "60,000 tags": json.dumps({"1_a": {f"t{n}": n for n in range(60_000)}}, separators=(",", ":")),
    "60,000 folders": json.dumps({f"{n}_a": {} for n in range(60_000)}, separators=(",", ":")),
    "1 MB deep": "[" * 900_000, "1 MB of text": "x" * 900_000, "1 MB of digits": "9" * 900_000,
}  # fmt: skip
LONE = ("ss_tag_frequency", "lora_adapter_metadata", "ss_network_args", "lycoris.recipe", "ss_output_name", "ssmd_cover_images")


def kinds_of_files() -> dict[str, Callable[[Path], object]]:
    """Return what makes a safetensors file, each of its kind."""
    made: dict[str, Callable[[Path], object]] = {}
    for name, (table, data, _) in HEADERS.items():
        made[f"header, {name}"] = lambda folder, table=table, data=data: raw(folder / FOLDER / "odd.safetensors", table, data)
    made["header, 2 GB on 1 MB"] = overlapping
    made["header, empty tensors"] = lambda folder: write(folder, {f"a{n}": (0, 10**9) for n in range(2 * LAYERS)})
    made["header, 1 MB of digits"] = lambda folder: raw(folder / FOLDER / "odd.safetensors", b'{"a":' + b"9" * 900_000 + b"}")
    made.update({f"names, {name}": lambda folder, shapes=shapes: write(folder, shapes()) for name, shapes in NAMES.items()})
    for name, (config, beside) in CONFIGS.items():
        made[f"config, {name}"] = lambda folder, config=config, beside=beside: write(folder, BESIDE[beside](), config=config)
    for name, text in TEXTS.items():
        made[f"metadata, {name}"] = lambda folder, text=text: write(folder, lora(["a"]), dict.fromkeys(ENTRIES, text))
    for entry in LONE:
        for name, text in LARGE_TEXTS.items():
            made[f"{entry}, {name}"] = lambda folder, entry=entry, text=text: write(folder, lora(["a"]), {entry: text})
    made["metadata, 30,000 entries"] = lambda folder: write(folder, lora(["a"]), {f"a{n}": "1" for n in range(30_000)})
    return made


def overlapping(folder: Path) -> None:
    """Write 2,000 tensors on the same bytes."""
    size = 500_000
    table = {f"a{n}": {"dtype": "F16", "shape": [size], "data_offsets": [0, 2 * size]} for n in range(2_000)}
    raw(folder / FOLDER / "odd.safetensors", table, bytes(2 * size))


def kinds_of_pickles() -> dict[str, Callable[[Path], object]]:
    """Return what makes a file of torch.save, or what has the name of one."""
    made: dict[str, Callable[[Path], object]] = {
        name: lambda folder, make=make: make(folder / FOLDER / "odd.pt") for name, (make, _) in PICKLES.items()
    }
    return made | {
        "nested zip": nested_zip, "lying zip": lying_zip, "long pickle": long_pickle, "tables of tables": self_made_of,
        "many members": lambda folder: archive(folder, ((f"archive/data/{n}", b"") for n in range(9_000))),
        "many numbers": lambda folder: torch.save({f"a{n}.alpha": 1 for n in range(40_000)}, folder / FOLDER / "odd.pt"),
        "many tensors": lambda folder: torch.save(
            {f"a{n}.alpha": torch.zeros(1) for n in range(2_000)}, folder / FOLDER / "odd.pt", _use_new_zipfile_serialization=False),
        "digits": lambda folder: (folder / FOLDER / "odd.pt").write_bytes(b"\x80\x02I" + b"9" * 900_000 + b"\n."),
        "bytes of a number": lambda folder: (folder / FOLDER / "odd.pt").write_bytes(
            b"\x80\x02\x8b" + struct.pack("<i", 900_000) + b"\x7f" * 900_000 + b"."),
    }  # fmt: skip


def tool(name: str, **options: Any) -> Use:
    """Return what gives the file to a tool; names of files among the options are those of the good ones, "odd" is the hostile one."""

    def run(folder: Path) -> None:
        def one(value: Any) -> Any:
            if isinstance(value, list):
                return [one(item) for item in value]
            return found(folder) if value == "odd" else folder / value if str(value).endswith((".safetensors", ".undo")) else value

        TOOLS[name].run(**{option: one(value) for option, value in options.items()})

    return run


OUT = "out.safetensors"
READING: dict[str, Use] = {
    "load": lambda folder: load(found(folder)), "inspect": lambda folder: inspect(found(folder)).as_dict(),
    "list": lambda folder: Describer()(found(folder), read_names(found(folder))), "metadata": tool("metadata", models=["odd"]),
    "find": tool("find", library=["one.safetensors", "odd"]),
    "verify": tool("verify", merged="odd"), "undo": tool("undo", merged="odd", undo_file="merged.undo", save_to=OUT),
    "merge": tool("merge", sd_model="base.safetensors", models=["odd"], save_to=OUT),
    "merge into": tool("merge", sd_model="odd", models=["one.safetensors"], save_to=OUT),
    "extract": tool("extract", model_org="odd", model_tuned="tuned.safetensors", save_to=OUT, dim=2),
    "measure": tool("measure", model_org="base.safetensors", model_tuned="odd"),
}  # fmt: skip
WORK: dict[str, Use] = {
    "compare": tool("compare", models=["one.safetensors", "odd"]),
    "merge networks": tool("networks_merge", models=["one.safetensors", "odd"], save_to=OUT),
    "convert": tool("convert", model="odd", save_precision="fp16", save_to=OUT),
    "convert to LoRA": tool("convert", model="odd", algorithm="lora", save_to=OUT),
    "resize": tool("resize", model="odd", new_rank=1, save_to=OUT), "slim": tool("slim", model="odd", error=0.5, save_to=OUT),
    "bake": tool("bake", model="odd", ratio=0.5, save_to=OUT), "prune": tool("prune", model="odd", save_to=OUT),
    "split": tool("split", model="odd", unit=1, save_to=OUT),
}  # fmt: skip


def good_file(folder: Path) -> None:
    """Put a good network where the hostile one will be."""
    (folder / FOLDER).mkdir()
    shutil.copyfile(folder / "one.safetensors", folder / FOLDER / "odd.safetensors")


def good_pickle(folder: Path) -> None:
    """Put a good file of torch.save where the hostile one will be."""
    (folder / FOLDER).mkdir()
    torch.save({"a.lora_up.weight": torch.ones(2, 2), "a.lora_down.weight": torch.ones(2, 2)}, folder / FOLDER / "odd.pt")


ALGORITHMS: dict[str, Callable[[Path], object]] = {name: partial(of_algorithm, name) for name in samples.LINEAR}
SURFACES = {
    "network": Surface(good_file, READING, kinds_of_files()),
    "pickle": Surface(good_pickle, READING, kinds_of_pickles()),
    "algorithm": Surface(good_file, READING, ALGORITHMS, WORK),
}
