"""What to choose: algorithms with their usual ranks, what each is good for, how large its files are, and who says so.

The words are rules of thumb of the trainers' authors, who tested mostly on SD 1; the sizes are computed from our own tables of the models.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from math import isqrt, prod

from ... import models
from ...records import dataclass
from ..files.networks.growing import header_room
from ..units import megabytes
from .sources import ALGO_LIST, DREAMBOOTH, GUIDELINES, KOHYA, PAPER, PEFT

MARKS = {4: "best", 3: "good", 2: "fair", 1: "weak"}
WIDTH = 2  # bytes of an fp16 number
UNET_MIDDLE = "diffusion_model.middle_block."  # in each UNet and in no transformer: the presets choose among the layers of UNets
IA3_LAYERS = "k, v, feed-forward"  # what LyCORIS trains by (IA)³, whatever the preset
IA3_OUTPUTS, IA3_INPUTS = ("to_k", "to_v", "k_proj", "v_proj", ".k", ".v"), ("ff.net.2", "mlp.fc2", "mlp.c_proj")
KEYS = 5  # of a module, as many as room is kept for


@dataclass(frozen=True)
class Advice:
    """What is said of one algorithm."""

    key: str
    name: str
    asked: str  # how a training asks for it
    usual: str  # dim and alpha
    good: str
    care: str
    sources: tuple[str, ...]
    fidelity: int = 0  # 1 to 4 as the guidelines' stars, at the same size; 0: they do not say
    flexibility: int = 0
    smallness: int = 0

    @property
    def sentence(self) -> str:
        """Return the advice in short."""
        return f"{self.name}: good for {self.good}. Usual: {self.usual}. Watch out: {self.care}."

    @property
    def balance(self) -> str:
        """Return fidelity, flexibility and size in words; empty where the guidelines do not say."""
        marks = (("fidelity", self.fidelity), ("flexibility", self.flexibility), ("small file", self.smallness))
        return ", ".join(f"{name} {MARKS[mark]}" for name, mark in marks if mark)


ADVICE = (
    Advice(
        "lora", "LoRA", "networks.lora; algo=lora (linear and 1x1 layers)", "dim up to 64, alpha 1 (or less) to dim/2",
        "small, well understood files that every program reads", "if it does not learn enough: LoKr with a small factor, or Full",
        (ALGO_LIST, GUIDELINES, KOHYA), 2, 2, 2,
    ),
    Advice(
        "locon", "LoCon", "algo=locon; networks.lora with conv_dim (3x3 convolutions too)",
        "dim up to 64, conv_dim up to dim, alpha 1 (or less) to dim/2",
        "what LoRA is for, with the convolutions of a full fine-tune in it",
        "what convolutions add is hard to tell from attention and feed-forward alone", (ALGO_LIST, GUIDELINES, KOHYA), 2, 2, 2,
    ),
    Advice(
        "loha", "LoHa", "algo=loha", "dim up to 32, alpha 1 (or less) to dim/2; the rank of the product is up to dim²",
        "easier concepts, several concepts in one file, generalisation, changing a style",
        "weak on complex characters; a high dim is unstable or gives NaN", (ALGO_LIST, GUIDELINES), 1, 3, 2,
    ),
    Advice(
        "lokr", "LoKr, large (factor 4 to 8)", "algo=lokr, factor=4 to 8, full dimension (a very large dim)",
        "full dimension; alpha is then ignored", "learning more than a LoRA of its size", "combines less well with other concepts",
        (ALGO_LIST, GUIDELINES), 3, 1, 2,
    ),
    Advice(
        "lokr-small", "LoKr, small (factor -1)", "algo=lokr, factor=-1", "factor -1",
        "tiny files that generalise", "transfers badly to another base model", (ALGO_LIST, GUIDELINES), 1, 2, 4,
    ),
    Advice(
        "full", "Full", "algo=full", "no dim", "the best fidelity when it is tuned well; used like a LoRA",
        "the largest file, and the most sensitive to hyperparameters", (ALGO_LIST, GUIDELINES), 4, 4, 1,
    ),
    Advice(
        "ia3", "(IA)³", "algo=ia3", "no dim; learning rate 5e-3 to 1e-2", "styles, in files under 1 MB on SD 1",
        "hard to transfer to another base model", (ALGO_LIST, GUIDELINES),
    ),
    Advice(
        "dylora", "DyLoRA", "algo=dylora; networks.dylora", "a large dim, alpha dim/4 to dim (128 and 64, say)",
        "one file that can be cut to any smaller rank afterwards", "needs more steps", (ALGO_LIST,),
    ),
    Advice(
        "glora", "GLoRA", "algo=glora", "as LoRA", "experiments with a generalised LoRA", "little studied",
        (ALGO_LIST, f"{PAPER}2306.07967"),
    ),
    Advice(
        "oft", "Diag-OFT, COFT", "algo=diag-oft, constraint= for COFT; networks.oft",
        "dim is the size of a block (kohya's: how many blocks)", "keeping the angles between weights, so that concepts stay apart",
        "costs more than LoCon, less than Full", (ALGO_LIST, f"{PAPER}2306.07280"),
    ),
    Advice(
        "boft", "BOFT", "algo=boft", "the size of a block and how many factors",
        "a full orthogonal matrix made of butterflies, between Diag-OFT and OFT", "costly to rebuild", (f"{PAPER}2311.06243",),
    ),
    Advice(
        "dora", "DoRA", "dora_wd=True beside another algorithm", "those of the algorithm under it",
        "training the direction and the size of weights apart",
        "the base model's weights are needed to merge, bake or convert it", (f"{PAPER}2402.09353",),
    ),
)  # fmt: skip
RULES = (
    ("The dataset and the hyperparameters matter more than the algorithm.", GUIDELINES),
    ("At the same size, what learns a concept better mixes worse with others; both improve with size.", GUIDELINES),
    ("Alpha fixed at 1 and alpha = dim/2 are different things as dim grows.", GUIDELINES),
    ("Attention and feed-forward layers alone (the preset attn-mlp) are the default advice.", GUIDELINES),
    ("A usual learning rate is 1e-4 to 1e-3 for a LoRA with alpha 1, less for its text encoder.", KOHYA),
    (
        "The number of steps follows from the images: theirs saw each image about 100 times, so steps = 100 * images / images a step; "
        "a dry run, or Check on the page, says what that is for a folder.",
        PEFT,
    ),
    ("Too many steps, or too high a rate, and images become those of the folder whatever is asked for: begin low and go up.", DREAMBOOTH),
)
_OTHER_NAMES = {
    "norm": "full", "norm bias": "full", "bias": "full", "replacement": "full", "bias replacement": "full",
    "diag-oft": "oft", "coft": "oft", "t-lora": "lora", "glokr": "lokr",
}  # fmt: skip


def advice(algorithm: str) -> Advice | None:
    """Return what is said of an algorithm, under our name for it ("lokr", "DoRA over lora"); None where nothing is."""
    name = algorithm.lower().partition(" over ")[0].partition(" (")[0].strip()
    name = _OTHER_NAMES.get(name, name)
    return next((item for item in ADVICE if item.key == name), None)


@dataclass(frozen=True)
class Example:
    """A usual setting, whose size is computed; published: what LyCORIS' guidelines give for SD 1, in MB."""

    key: str
    setting: str
    preset: str  # attn-only, attn-mlp or full, as LyCORIS names them
    dim: int | None = None
    factor: int = -1
    published: float | None = None


EXAMPLES = (
    Example("lora", "dim 8", "attn-mlp", 8, published=9.5),
    Example("lora", "dim 32", "attn-only", 32, published=18),
    Example("lora", "dim 32", "attn-mlp", 32, published=37),
    Example("lora", "dim 64", "attn-mlp", 64, published=73),
    Example("locon", "dim 32, conv_dim 16", "full", 32),
    Example("loha", "dim 16", "attn-only", 16, published=18),
    Example("loha", "dim 16", "attn-mlp", 16, published=37),
    Example("loha", "dim 32", "attn-mlp", 32, published=73),
    Example("lokr-small", "full dimension, factor -1", "attn-mlp", None, -1, 1.6),
    Example("lokr", "full dimension, factor 8", "attn-mlp", None, 8, 12),
    Example("lokr", "full dimension, factor 4", "attn-only", None, 4, 15),
    Example("lokr", "full dimension, factor 4", "attn-mlp", None, 4, 43),
    Example("lokr", "full dimension, factor 4", "full", None, 4, 113),
    Example("ia3", "", IA3_LAYERS, published=0.58),
    Example("oft", "blocks of 32", "attn-mlp", 32),
    Example("full", "", "attn-only", published=233),
    Example("full", "", "attn-mlp", published=673),
    Example("full", "", "full", published=1800),
)


def stored_numbers(key: str, shape: tuple[int, ...], dim: int | None = None, factor: int = -1) -> int:
    """Return how many numbers a layer (out, in, *k) takes in a file; dim: rank, of OFT the rows of a block, None: whole.

    Raises KeyError for an algorithm whose size is not known.
    """
    out, columns = shape[0], prod(shape[1:])
    rank = min(dim or out, out, columns)
    if key in ("lora", "locon"):
        return rank * (out + columns) + 1
    if key == "loha":
        return 2 * rank * (out + columns) + 1
    if key in ("lokr", "lokr-small"):
        first, second = _divisor(out, factor), _divisor(shape[1], factor)
        rows, rest = out // first, columns // second
        whole = dim is None or dim >= min(rows, rest)
        return first * second + (rows * rest if whole else dim * (rows + rest) + 1)  # type: ignore[operator]
    if key == "oft":
        return out * next(size for size in range(min(dim or 32, out), 0, -1) if out % size == 0) + 1
    return {"full": prod(shape)}[key]


def _divisor(count: int, largest: int) -> int:
    limit = isqrt(count) if largest <= 0 else min(largest, isqrt(count))
    return next(d for d in range(max(1, limit), 0, -1) if count % d == 0)


def chosen_layers(family: str, preset: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the layers that a training preset takes, with their shapes; fused attention in its parts."""
    base = models.reference(family)
    for module, info in base.layers.items():
        if info.kind not in ("Linear", "Conv2d", "MultiheadAttention") or not _takes(module, preset):
            continue
        if info.kind == "MultiheadAttention":
            parts = "kv" if preset == IA3_LAYERS else "qkv"
            yield from ((f"{module}.{part}", (info.shape[0] // 3, *info.shape[1:])) for part in parts)
        else:
            yield module, info.shape


def _takes(module: str, preset: str) -> bool:
    if preset == "full":
        return True
    if preset == IA3_LAYERS:
        return module.endswith((*IA3_OUTPUTS, *IA3_INPUTS, "attn"))
    text = not module.startswith("diffusion_model.")
    if preset == "attn-only":
        return ("attn" in module) and (text or "transformer_blocks" in module)
    return text or "transformer_blocks" in module or module.endswith(("proj_in", "proj_out"))


@cache
def expected_size(family: str, key: str, preset: str, dim: int | None = None, factor: int = -1, conv_dim: int | None = None) -> int:
    """Return the bytes of an fp16 file of ours for a setting on a full-size model; conv_dim: of 3x3 layers, None: dim."""
    numbers = modules = 0
    for name, shape in chosen_layers(family, preset):
        modules += 1
        if key == "ia3":
            numbers += shape[name.endswith(IA3_INPUTS)] + 1
        else:
            numbers += stored_numbers(key, shape, conv_dim if conv_dim and prod(shape[2:]) > 1 else dim, factor)
    base = models.reference(family)
    longest = max(len(base.name_in("kohya", module) or "") for module in base.layers)
    return header_room(modules * KEYS, longest + 20, {}) + 1024 + numbers * WIDTH


def example_sizes(family: str) -> list[tuple[Example, int]]:
    """Return the usual settings with their sizes in bytes on a family."""
    conv = {"locon": 16}
    return [(item, expected_size(family, item.key, item.preset, item.dim, item.factor, conv.get(item.key))) for item in EXAMPLES]


def sizes_of(key: str, family: str) -> str:
    """Return an algorithm's usual sizes on a family as a sentence; empty where none is computed."""
    if not any(module.startswith(UNET_MIDDLE) for module in models.reference(family).layers):
        return ""
    found = [f"{_named(item)}: {megabytes(size)}" for item, size in example_sizes(family) if item.key == key]
    return f"Files on {models.FAMILIES[family].label} (fp16): {'; '.join(found)}." if found else ""


def _named(item: Example) -> str:
    return f"{item.setting}, {item.preset}" if item.setting else item.preset
