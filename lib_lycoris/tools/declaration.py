"""What a tool is: a pure function and one declaration of its options, from which the command line, the HTTP API and the tab are built."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal, Union

from ..atomic import removed_leftovers
from ..errors import ModelMismatchError
from ..models import FAMILIES
from ..networks.reading.dtypes import OF_NETWORKS, PRECISIONS
from ..records import dataclass
from ..wording import duration
from .files.output import refuse_inputs, refuse_strangers, require_space
from .files.output_name import check_network_name, refuse_weights
from .jobs.devices import check_device
from .jobs.faults import machine_faults
from .jobs.progress import Progress
from .units import megabytes
from .validation import validated

FilePath = Union[str, Path]
Files = Union[FilePath, Sequence[FilePath]]
Numbers = Union[float, Sequence[float]]  # one for each network
Counts = Union[int, Sequence[int]]
Texts = Union[str, Sequence[str]]
Kind = Literal["value", "network", "networks", "checkpoint", "output", "file", "folder"]
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".bin")  # what a file may be called that networks and checkpoints may replace
FILES = (".undo", ".json", ".safetensors")  # and one that a file of another kind may replace
Makes = Literal["network", "networks", "checkpoint", "file"]  # networks: several, with a number behind the name

STYLES = ("kohya", "diffusers", "peft", "lycoris", "original")  # of keys; original: dotted, as ComfyUI and ai-toolkit have them
RULES = ("fixed", "threshold", "ratio", "quantile", "energy", "sv_ratio", "sv_fro", "sv_cumulative")  # by which ranks are chosen

LABELS = {  # fields of options that several tools have: one thing has one name
    "base_model": "Base model", "conv_dim": "Rank of convolutions", "conv_value": "Value for convolutions", "dim": "Rank",
    "lbw": "Block weights", "lbwe": "Element filters", "merged": "Merged checkpoint", "model": "Network",
    "model_org": "Original checkpoint", "model_tuned": "Fine-tuned checkpoint", "models": "Networks",
    "new_conv_rank": "Rank of convolutions", "new_rank": "Rank", "no_hash": "Do not hash", "ratio": "Strength", "ratios": "Strengths",
    "rule": "How ranks are chosen", "save_precision": "Precision", "save_to": "Name of the result", "sd_model": "Checkpoint",
    "block": "OFT block size", "dyn": "First ranks (DyLoRA)", "dynamic_param": "Value of the method", "factor": "LoKr factor",
    "family": "Base model family", "lokr_rank": "LoKr rank", "module_ranks": "Ranks by layer", "count": "Words listed",
    "near": "Similar from", "triggers": "Trigger words",
    "style": "Key names", "te": "Text encoder strength", "te2": "Second text encoder", "unet": "UNet strength", "unit": "Every n-th rank",
}  # fmt: skip


@dataclass(frozen=True)
class Option:
    """One option: a keyword of the tool's functions, a flag on the command line, a field of the API and of the tab."""

    name: str  # the keyword: save_to
    help: str  # other options by their names between backticks, as in every sentence of a tool
    type: type = str  # str, int, float, bool or Path
    default: Any = None
    flag: str = ""  # --save_to; made of the name when empty; a name without dashes is positional
    aliases: tuple[str, ...] = ()  # other spellings, kohya's among them
    choices: tuple[Any, ...] = ()
    nargs: str | int | None = None  # "+", "*", "?"; None for one value
    required: bool = False
    per_network: bool = False  # one value for each of --models
    kind: Kind = "value"  # what a page offers to fill it in
    makes: Makes = "network"  # what is written, where the kind is output
    check: Callable[[Any], None] | None = None  # raises ToolError for a value of the right type that cannot be used
    fastest: bool = False  # device: the command line takes the GPU where there is one and nothing was asked for
    walks: bool = False  # networks: the tool itself goes through folders, subfolders too
    ignored: str = ""  # accepted for old command lines: the sentence that says why it has no meaning here
    label: str = ""  # what its field is called on a page; that of LABELS, or made of the name, when empty
    refused: str = ""  # known, but obeying it would change the result: the sentence that says what to use instead

    @property
    def flags(self) -> tuple[str, ...]:
        """All spellings on the command line."""
        return (self.flag or f"--{self.name}", *self.aliases)

    @property
    def title(self) -> str:
        """What its field is called on a page."""
        return self.label or LABELS.get(self.name) or self.name.replace("_", " ").capitalize()


@dataclass(frozen=True)
class Result:
    """What a run made: files, a report for machines and the same for people."""

    report: Mapping[str, Any]  # plain JSON values
    text: str
    outputs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a run would do, without doing it."""

    report: Mapping[str, Any]  # matched, unmatched: [[key, reason]], and what else the tool can tell beforehand
    text: str
    seconds: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None

    @property
    def costs(self) -> str:
        """What a run takes, as one line; empty where that is not known."""
        seconds = "" if self.seconds is None else f"about {duration(max(self.seconds, 1))}"
        memory = "" if self.memory_bytes is None else f"memory {megabytes(self.memory_bytes)}"
        disk = "" if self.disk_bytes is None else f"disk {megabytes(self.disk_bytes)}"
        return ", ".join(filter(None, [seconds, memory, disk]))

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        costs = {"seconds": self.seconds, "memory_bytes": self.memory_bytes, "disk_bytes": self.disk_bytes}
        return {**self.report, **costs}


@dataclass(frozen=True)
class Tool:
    """A tool: a pure function, what it would do, and the declaration of its options, which whoever calls is held to."""

    name: str  # merge
    pretty: str  # Merge
    summary: str  # one line
    function: Callable[..., Result]  # takes the options by their names, and progress
    planner: Callable[..., Plan]  # takes the options by their names
    options: tuple[Option, ...] = field(default=())
    verb: str = ""  # on the command line, where two tools share one; the name when empty

    def run(self, /, progress: Progress | None = None, **options: Any) -> Result:
        """Do it. Raises ToolError for an option that is unknown or wrong before anything is read, LycorisError for what cannot be done."""
        given = validated(self, options)
        self._refuse_inputs(given)
        removed = removed_leftovers(Path(given["save_to"]).parent) if given.get("save_to") else []
        started = time.monotonic()
        with self._naming_the_base_model(given), machine_faults():
            result = self.function(progress=progress or Progress(), **given)
        result = replace(result, report={**_written(result.outputs, time.monotonic() - started), **result.report})
        if removed:  # said, since it may have been somebody's only copy of a long run
            text = f"{result.text}\nremoved what killed runs had left half-written: {', '.join(removed)}"
            result = replace(result, text=text, report={**result.report, "removed_leftovers": removed})
        return result

    def plan(self, /, **options: Any) -> Plan:
        """Tell what :meth:`run` would do with these options, without doing it; raises what it would raise."""
        given = validated(self, options)
        self._refuse_inputs(given)
        with self._naming_the_base_model(given), machine_faults():
            planned = self.planner(**given)
        if given.get("save_to"):
            require_space(Path(given["save_to"]).absolute().parent, planned.disk_bytes or 0, Path(given["save_to"]).name)
        return planned

    def _refuse_inputs(self, given: Mapping[str, Any]) -> None:
        """Raise ToolError when a file that is written is one that is read, or that is written too."""
        files = [(option, Path(path)) for option in self.options if option.type is Path for path in as_list(given.get(option.name))]
        for option, path in files:
            if option.kind == "output":
                refuse_inputs(path, [other for one, other in files if one is not option])
                if option.makes == "network":
                    check_network_name(path)
                refuse_strangers(path, FILES if option.makes == "file" else WEIGHTS, option.name)
                if option.makes == "file":
                    refuse_weights(path, option.name)

    @contextmanager
    def _naming_the_base_model(self, given: Mapping[str, Any]) -> Iterator[None]:
        """Say where to give the base model when a network does not fit the usual one of its family, and another may be given."""
        try:
            yield
        except ModelMismatchError as error:
            names = [option.name for option in self.options if option.kind == "checkpoint" and not option.required]
            name = "base_model" if "base_model" in names else next(iter(names), "")
            if not name or given.get(name) is not None:
                raise
            raise ModelMismatchError(f"{error}; if it is for a model of unusual size, give that checkpoint as `{name}`") from error

    def defaults(self) -> dict[str, Any]:
        """Return the default of every option that means something here."""
        return {o.name: o.default for o in self.options if not (o.ignored or o.refused)}


def _written(outputs: Sequence[Path], seconds: float) -> dict[str, Any]:
    """Return what every report says: the first file or folder that was written, bytes of all of them, seconds."""
    files = [file for path in outputs for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    first = str(outputs[0]) if outputs else None
    return {"output": first, "bytes": sum(file.stat().st_size for file in files), "seconds": round(seconds, 3)}


def options_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options among the arguments that a tool's function was called with."""
    return {name: value for name, value in arguments.items() if name != "progress"}


MODELS = Option("models", "network files", Path, nargs="+", required=True, kind="networks")
PER_NETWORK = (
    Option("ratios", "strength of each network (default 1); the text encoders' and the UNet's default", float, nargs="+", per_network=True),
    Option("te", "strength of each network on the first text encoder", float, nargs="+", per_network=True),
    Option("te2", "strength of each network on the other text encoders (default: `te`)", float, nargs="+", per_network=True),
    Option("unet", "strength of each network on the UNet or transformer", float, nargs="+", per_network=True),
    Option(
        "lbw", "block weights of each network: a preset's name or 12, 17, 20, 26 or 61 values with commas; - for none",
        nargs="+", per_network=True, aliases=("--lbws",),
    ),
    Option("lbwe", "element filters of each network: a set's name or BLOCKS:ELEMENTS:RATIO; - for none", nargs="+", per_network=True),
)  # fmt: skip
SAVE_TO = Option("save_to", "the file to write", Path, required=True, kind="output", aliases=("-o", "--output"))
SAVE_PRECISION = Option("save_precision", "dtype of the tensors that are written", choices=tuple(PRECISIONS))
NETWORK_PRECISION = Option("save_precision", "dtype of the file (default: as it is)", choices=OF_NETWORKS)
FAMILY = Option(
    "family", "base model family that the networks are read for, where their layers fit several; else they are put on the layers that fit",
    choices=tuple(FAMILIES),
)  # fmt: skip
ALPHA = Option("alpha", "alpha of every layer that has ranks (default: its rank); the change stays the same", float)
DEVICE = Option("device", "where to compute: cpu, cuda, cuda:0, mps", default="cpu", check=check_device)
# what is decomposed or multiplied gains by a GPU, unlike what is added up to the very bits that a check computes again
FASTEST = replace(DEVICE, help=f"{DEVICE.help}; on the command line the GPU where there is one", fastest=True)
IGNORED_KOHYA = (
    Option("v2", "", bool, ignored="`v2` is not needed: which model a file is for is read from the file"),
    Option("sdxl", "", bool, ignored="`sdxl` is not needed: which model a file is for is read from the file"),
    Option("v_parameterization", "", bool, ignored="`v_parameterization` has no meaning here: weights are the same for it"),
    Option("precision", "", str, ignored="`precision` has no meaning here: everything is computed in float32"),
    Option("mem_eff_load_save", "", bool, ignored="`mem_eff_load_save` is always on here: files are streamed"),
)


def as_list(value: Any) -> list[Any]:
    """Return an option's value as a list: nothing, one value or several."""
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
