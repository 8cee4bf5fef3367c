"""Every algorithm against the trainers' own forward: LyCORIS 4.1.3 and PEFT, fresh random tensors, saved with their own savers.

At multiplier 1 the library's forward is the truth; at other strengths it is y0 + s (y1 - y0), the linear rule, made from that forward.
Where the truth is another one, EXCEPTIONS says why, and a test pins the exact relation to the forward down.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

REQUIRES = ("lycoris", "peft")

import lycoris.kohya as kohya  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
from lycoris.modules.dylora import DyLoraModule  # noqa: E402
from lycoris.wrapper import LycorisNetwork, create_lycoris  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from lib_lycoris import Activation, Patcher, load  # noqa: E402
from lib_lycoris.errors import ModelMismatchError  # noqa: E402

from .oracle_models import (  # noqa: E402
    BLOCK,
    DOUBLE,
    MODES,
    ROTATED,
    SINGLE,
    TEXT,
    TEXT_2,
    UNET,
    Answers,
    leaves,
    randomise,
    stream,
    tree,
)

EXCEPTIONS = {
    "LyCORIS DyLoRA": "its forward multiplies by alpha/blocks = block_size · alpha/r, every loader and our corpus by alpha/r",
    "LyCORIS bypass_mode": "of OFT, BOFT and IA3 turns the layer's output, bias and all; no tensor tells, we leave the bias",
    "LyCORIS T-LoRA 3x3": "its 1x1 factors do not fit a 3x3 convolution: the forward raises, so nothing was trained that could be read",
    "LyCORIS LoKr rs_lora, both factors whole": "the forward multiplies by √dim, which ss_network_args alone tells: without it, 1",
    "PEFT OFT on 3x3": "its forward folds the input, which is no rotation of the weight, and disagrees with its merge: the merge",
    "PEFT without its config": "alpha is in adapter_config.json alone: a file without it has scale 1",
}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep LyCORIS' presets, which are class attributes, its logging and the random numbers of both libraries to one test."""
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    monkeypatch.setattr("lycoris.modules.tlora.gc", SimpleNamespace(collect=lambda: 0))  # after every layer: most of the time
    for owner in (LycorisNetwork, kohya.LycorisNetworkKohya):
        for name in [n for n in vars(owner) if n.isupper()]:
            monkeypatch.setattr(owner, name, deepcopy(getattr(owner, name)))
    with torch.random.fork_rng(devices=[]):
        yield


def _trained(network: nn.Module, numbers: torch.Generator, dtype: torch.dtype, saved: torch.dtype | None) -> None:
    network.to(dtype).eval().requires_grad_(True)
    randomise(network.named_parameters(), numbers, saved)


def lycoris(name: str, path: Path, layers: dict[str, Any], algo: str, dim: int, alpha: float, **options: Any) -> Answers:
    """Put a random LyCORIS network on a model, save it, and return the model's answers; table, dtype, saved, times are ours."""
    numbers, preset = stream(name), options.pop("table", None)
    dtype, saved, times = options.pop("dtype", torch.float64), options.pop("saved", None), options.pop("times", 1.0)
    torch.manual_seed(numbers.initial_seed())
    model = tree(layers, numbers, dtype)
    answers = Answers(name, {"model": model})
    LycorisNetwork.apply_preset(preset or {})
    options = {"conv_dim": dim + 1, "conv_alpha": alpha + 1, **options}
    network = create_lycoris(model, 1.0, dim, alpha, warn_on_unmatched=False, algo=algo, **options)
    network.apply_to()
    _trained(network, numbers, dtype, saved)
    network.save_weights(str(path), saved, {})
    answers.ask(lambda n: model.get_submodule(n.removeprefix("model.")), times)
    return answers


DORA, PER_INPUT = {"dora_wd": True}, {"dora_wd": True, "wd_on_output": False}
FLOAT = {"dtype": torch.float32}
INPUTS = {"module_algo_map": {kind: {"algo": "ia3", "train_on_input": True} for kind in ("Linear", "Conv2d")}}
MIXED = {
    "module_algo_map": {"Conv2d": {"algo": "loha", "dim": 2}},
    "target_name": [r".*attn1.*", r".*ff.*"],
    "name_algo_map": {r".*attn1.*": {"algo": "glora", "alpha": 3.0}, r".*ff.*": {"algo": "full"}},
}
LYCORIS: dict[str, tuple[str, int, float, dict[str, Any]]] = {
    "lora": ("lora", 4, 2.5, {}),
    "lora negative alpha": ("lora", 4, -3.0, {}),
    "lora scalar": ("lora", 4, 2.5, {"use_scalar": True}),
    "lora bypass": ("lora", 4, 2.5, {"bypass_mode": True}),
    "locon tucker": ("locon", 4, 2.5, {"use_tucker": True}),
    "locon tucker scalar": ("locon", 4, 2.5, {"use_tucker": True, "use_scalar": True}),
    "lora dora": ("lora", 4, 2.5, DORA),
    "lora dora per input": ("lora", 4, 2.5, PER_INPUT),
    "locon tucker dora": ("lora", 4, 2.5, {**DORA, "use_tucker": True, "use_scalar": True}),
    "locon tucker dora per input": ("lora", 4, 2.5, {**PER_INPUT, "use_tucker": True}),
    "lora bfloat16": ("lora", 4, 2.5, {"saved": torch.bfloat16}),
    "loha": ("loha", 3, 2.0, {}),
    "loha scalar": ("loha", 3, 2.0, {"use_scalar": True}),
    "loha tucker": ("loha", 3, 2.0, {"use_tucker": True}),
    "loha tucker scalar": ("loha", 3, 2.0, {"use_tucker": True, "use_scalar": True}),
    "loha dora": ("loha", 3, 2.0, DORA),
    "loha dora per input": ("loha", 3, 2.0, PER_INPUT),
    "loha tucker dora per input": ("loha", 3, 2.0, {**PER_INPUT, "use_tucker": True}),
    "loha float16": ("loha", 3, 2.0, {"saved": torch.float16}),
    "lokr": ("lokr", 2, 3.0, {}),
    "lokr factor 4": ("lokr", 2, 3.0, {"factor": 4}),
    "lokr factor 2 scalar": ("lokr", 3, 2.0, {"factor": 2, "use_scalar": True}),
    "lokr whole": ("lokr", 4, 2.5, {"full_matrix": True}),
    "lokr whole by its dim": ("lokr", 64, 2.5, {"factor": 4}),
    "lokr decompose both": ("lokr", 1, 3.0, {"decompose_both": True, "conv_dim": 1}),
    "lokr first decomposed": ("lokr", 3, 5.0, {"decompose_both": True, "unbalanced_factorization": True, "factor": 4}),
    "lokr unbalanced": ("lokr", 2, 3.0, {"unbalanced_factorization": True, "factor": 3}),
    "lokr tucker": ("lokr", 1, 3.0, {"use_tucker": True, "conv_dim": 2, "factor": 2}),
    "lokr tucker both": ("lokr", 1, 3.0, {"use_tucker": True, "decompose_both": True, "conv_dim": 1, "use_scalar": True}),
    "lokr dora": ("lokr", 2, 3.0, DORA),
    "lokr dora per input": ("lokr", 2, 3.0, PER_INPUT),
    "lokr tucker dora": ("lokr", 1, 3.0, {**DORA, "use_tucker": True, "conv_dim": 1}),
    "lokr whole dora per input": ("lokr", 4, 2.5, {**PER_INPUT, "full_matrix": True}),
    "lokr bfloat16": ("lokr", 2, 3.0, {"saved": torch.bfloat16}),
    "glora": ("glora", 4, 2.5, {}),
    "glora scalar": ("glora", 4, 2.5, {"use_scalar": True}),
    "ia3 outputs": ("ia3", 4, 1.0, {}),
    "ia3 inputs": ("ia3", 4, 1.0, {"table": INPUTS}),
    "ia3 inputs bfloat16": ("ia3", 4, 1.0, {"table": INPUTS, "saved": torch.bfloat16}),
    "full": ("full", 4, 1.0, {}),
    "full with norms": ("full", 4, 1.0, {"train_norm": True}),
    "lora with norms": ("lora", 4, 2.5, {"train_norm": True}),
    "oft": ("diag-oft", 4, 1.0, FLOAT),
    "oft constrained": ("diag-oft", 4, 1.0, {**FLOAT, "constraint": 0.02}),
    "oft loosely constrained": ("diag-oft", 4, 1.0, {**FLOAT, "constraint": 50}),
    "oft rescaled": ("diag-oft", 6, 1.0, {**FLOAT, "rescaled": True}),
    "oft constrained rescaled": ("diag-oft", 6, 1.0, {**FLOAT, "constraint": 0.02, "rescaled": True}),
    "boft": ("boft", 10, 1.0, {**FLOAT, "conv_dim": 10}),
    "boft constrained": ("boft", 10, 1.0, {**FLOAT, "conv_dim": 10, "constraint": 0.02}),
    "boft rescaled": ("boft", 10, 1.0, {**FLOAT, "conv_dim": 10, "rescaled": True}),
    "boft constrained rescaled": ("boft", 10, 1.0, {**FLOAT, "conv_dim": 10, "constraint": 0.02, "rescaled": True}),
    "boft small blocks": ("boft", 6, 1.0, {**FLOAT, "conv_dim": 8, "table": {"exclude_name": [r".*(proj_in|to_out|net\.2|linear_1)"]}}),
    "dylora of single rows": ("dylora", 6, 2.5, {"block_size": 1}),
    "tlora": ("tlora", 4, 2.5, {"preset": "full-lin"}),
    "tlora of more ranks than inputs": ("tlora", 22, 2.5, {"preset": "full-lin"}),
    "mixed": ("lora", 4, 2.5, {"table": MIXED}),
}


def tolerance(algo: str, options: dict[str, Any]) -> float:
    """Return how near we must be: nearly equal where the library computes in float64."""
    return ROTATED if "oft" in algo else SINGLE if algo == "tlora" else DOUBLE


@pytest.mark.parametrize("name", LYCORIS)
def test_lycoris(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    algo, dim, alpha, options = LYCORIS[name]
    _all_blocks(monkeypatch)
    answers = lycoris(name, tmp_path / "n.safetensors", UNET, algo, dim, alpha, **options)
    answers.check(tmp_path / "n.safetensors", tolerance(algo, options))


@pytest.mark.parametrize("name", ["lora", "lokr dora", "glora", "full with norms", "oft rescaled", "tlora"])
def test_lycoris_on_a_text_encoder(name: str, tmp_path: Path) -> None:
    algo, dim, alpha, options = LYCORIS[name]
    answers = lycoris(f"text {name}", tmp_path / "n.safetensors", TEXT, algo, dim, alpha, **options)
    answers.check(tmp_path / "n.safetensors", tolerance(algo, options))


def _all_blocks(monkeypatch: pytest.MonkeyPatch, blocks: int | None = None) -> None:
    """Let DyLoRA's forward, which takes a random number of its blocks, take all of them or so many."""
    monkeypatch.setattr(
        DyLoraModule, "get_random_rank_weight", lambda self: self.get_weight(((blocks or self.block_count) - 1) * self.block_size)
    )


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("blocks", [None, 1])
def test_exception_lycoris_dylora(size: int, blocks: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EXCEPTIONS["LyCORIS DyLoRA"]
    _all_blocks(monkeypatch, blocks)
    # times: alpha/r over the forward's alpha/used; with all blocks 1/size
    used, name = blocks or 12 // size, f"dylora {size} {blocks}"
    options = {"block_size": size, "times": used / 12, "conv_dim": 12}
    answers = lycoris(name, tmp_path / "n.safetensors", UNET, "dylora", 12, 2.5, **options)
    answers.check(tmp_path / "n.safetensors", DOUBLE, ranks=blocks and used * size)


@pytest.mark.parametrize(("algo", "tolerance"), [("ia3", DOUBLE), ("diag-oft", ROTATED), ("boft", ROTATED)])
@torch.no_grad()
def test_exception_lycoris_bypass(algo: str, tolerance: float, tmp_path: Path) -> None:
    """Without the bias both forwards are one; with it they differ by what the bypass does to the bias alone."""
    assert EXCEPTIONS["LyCORIS bypass_mode"]
    options = {"bypass_mode": True, "conv_dim": 10, **({} if algo == "ia3" else FLOAT)}
    path = tmp_path / "n.safetensors"
    answers = lycoris(f"bypass {algo}", path, {k: v for k, v in UNET.items() if len(v) != 4}, algo, 10, 1.0, **options)
    network = answers.network(path)
    for mode in MODES:
        patcher, layers = answers.patcher()
        patcher.apply([Activation(network, lambda _: 1.0)], mode)  # type: ignore[arg-type]
        for name in answers.changed:
            x, bias = answers.inputs[name], layers[name].bias
            difference = answers.trained[name] - layers[name](x)
            wide = (answers.trained[name] - answers.base[name]).abs().max()
            spread = (difference - difference[:1, :1]).abs().max()  # the same at every position: it is of the bias only
            assert spread / wide < tolerance, name
            assert (difference.abs().max() / wide > tolerance) == (bias is not None), name


def test_exception_lycoris_tlora_on_a_3x3_convolution(tmp_path: Path) -> None:
    assert EXCEPTIONS["LyCORIS T-LoRA 3x3"]
    path, layers = tmp_path / "n.safetensors", {"down_blocks.0.resnets.0.conv1": UNET["down_blocks.0.resnets.0.conv1"]}
    with pytest.raises(RuntimeError, match="must match the size"):
        lycoris("tlora 3x3", path, layers, "tlora", 4, 2.5, dtype=torch.float32)
    with pytest.raises(ModelMismatchError, match=r"n\.safetensors"):
        load(path, Patcher(tree(UNET, stream("tlora 3x3"))).base)


# kohya's wrapper: lora_unet_ and lora_te_ names, and what only it takes


def kohya_network(name: str, path: Path, texts: int | None, algo: str, dim: int, **options: Any) -> Answers:
    """Put a random network of LyCORIS' kohya wrapper on a UNet and text encoders; texts: how many in a list, None for one alone."""
    numbers, dtype, times = stream(name), options.pop("dtype", torch.float64), options.pop("times", 1.0)
    torch.manual_seed(numbers.initial_seed())
    extra = {"add_embedding.linear_1": (36, 40)} if texts == 2 else {}
    models = {"unet": tree({**UNET, **extra}, numbers, dtype), "text_encoder": tree(TEXT, numbers, dtype)}
    if texts == 2:
        models["text_encoder_2"] = tree(TEXT_2, numbers, dtype)
    answers = Answers(name, models)
    encoders = [model for part, model in models.items() if part != "unet"]
    text: Any = encoders[0] if texts is None else encoders
    network = kohya.create_network(1.0, dim, 2.5, None, text, models["unet"], False, algo=algo, conv_dim=dim, **options)
    network.apply_to(text, models["unet"], True, True)
    _trained(network, numbers, dtype, None)
    metadata = {"ss_network_args": json.dumps({k: str(v) for k, v in options.items()}), "ss_network_dim": str(dim)}
    network.save_weights(str(path), None, metadata)
    answers.ask(lambda n: models[n.partition(".")[0]].get_submodule(n.partition(".")[2]), times)
    return answers


RS = {"rs_lora": True}
KOHYA: dict[str, tuple[int | None, str, int, dict[str, Any]]] = {
    "lora": (None, "lora", 6, {}),
    "lora, a list of one": (1, "lora", 6, {"train_norm": True}),
    "lora, a list of two": (2, "lora", 6, {"train_norm": True}),
    "lora rs": (None, "lora", 6, RS),
    "lora rs tucker dora": (None, "lora", 6, {**RS, "use_tucker": True, **DORA}),
    "loha rs": (None, "loha", 3, RS),
    "lokr rs": (None, "lokr", 2, {**RS, "factor": 2}),
    "lokr, a list of two": (2, "lokr", 2, {"factor": 2, **PER_INPUT}),
    "lokr whole": (None, "lokr", 6, {"full_matrix": True}),
    "lokr rs whole": (None, "lokr", 6, {**RS, "full_matrix": True}),
    "glora rs": (None, "glora", 6, RS),
    "glora, a list of two": (2, "glora", 6, {}),
    "full": (None, "full", 6, {"train_norm": True}),
    "ia3, a list of two": (2, "ia3", 6, {}),
    "oft": (None, "diag-oft", 4, {**FLOAT, "constraint": 0.02, "rescaled": True}),
    "oft, a list of two": (2, "diag-oft", 4, FLOAT),
    "boft": (1, "boft", 10, {**FLOAT, "rescaled": True}),
    "tlora, a list of two": (2, "tlora", 4, {"preset": "full-lin"}),
}


@pytest.mark.parametrize("name", KOHYA)
def test_kohya_wrapper(name: str, tmp_path: Path) -> None:
    texts, algo, dim, options = KOHYA[name]
    path = tmp_path / "n.safetensors"
    answers = kohya_network(f"kohya {name}", path, texts, algo, dim, **options)
    with safe_open(str(path), "pt") as file:
        prefixes = {re.match(r"lora_(unet|te\d?)_", key)[0] for key in file.keys()}  # type: ignore[index]  # noqa: SIM118
    assert prefixes == {"lora_unet_", *(["lora_te_"] if texts is None else [f"lora_te{i + 1}_" for i in range(texts)])}
    assert {n.partition(".")[0] for n in answers.changed} == set(answers.models)
    answers.check(path, tolerance(algo, options))


def test_exception_lokr_rs_whole(tmp_path: Path) -> None:
    """A file whose metadata was stripped: what the forward multiplied by √dim is read as it stands."""
    assert EXCEPTIONS["LyCORIS LoKr rs_lora, both factors whole"]
    path = tmp_path / "n.safetensors"
    answers = kohya_network("kohya lokr rs bare", path, None, "lokr", 6, **RS, full_matrix=True, times=1 / math.sqrt(6))
    save_file(load_file(str(path)), str(path))
    answers.check(path, DOUBLE)


# PEFT


def peft_network(name: str, path: Path, layers: dict[str, Any], kind: str, **options: Any) -> tuple[Answers, nn.Module]:
    """Put a random PEFT adapter on a model, save it in a folder, and return the model's answers and the adapted model."""
    numbers, dtype, times = stream(name), options.pop("dtype", torch.float64), options.pop("times", 1.0)
    torch.manual_seed(numbers.initial_seed())
    model = tree(layers, numbers, dtype)
    answers = Answers(name, {"model": model})
    norms = (nn.LayerNorm, nn.GroupNorm)
    every = [n.removeprefix("model.") for n, m in leaves({"model": model}).items() if not isinstance(m, norms)]
    options = {"target_modules": every, **options}
    adapted = peft.PeftModel(model, getattr(peft, f"{kind}Config")(**options)).eval()
    with torch.no_grad():
        randomise(adapted.named_parameters(), numbers)
    adapted.save_pretrained(str(path.parent))
    answers.ask(lambda n: adapted.base_model.model.get_submodule(n.removeprefix("model.")), times)
    return answers, adapted


# convolutions of 1x1 only: what OFT's forward is a rotation on
FLAT = [name for name, sizes in UNET.items() if not (len(sizes) == 4 and sizes[2] > 1) and "norm" not in name]
LINEAR = [name for name in FLAT if len(UNET[name]) == 2]
HALVES = [name for name in UNET if "norm" not in name and "downsamplers" not in name]  # HRA's forward has one stride and one padding
FEED = ["ff.net.0.proj", "ff.net.2", "proj_in", "conv1", "downsamplers.0.conv"]
ENDS = ["to_q", "to_k", "to_out.0", "proj_out", "time_emb_proj", "conv_in", "conv_shortcut", *FEED]
PATTERNS = {
    "rank_pattern": {"to_q": 3, r"down_blocks\.0\.resnets.*": 7, f"{BLOCK}.ff.net.2": 2},
    "alpha_pattern": {r".*attn\d\.to_k": 1.5, "to_q": 9, "conv1": 0.5},
}
ANCHORED = {"rank_pattern": {r"^down_blocks\.0\.resnets\.0\.conv1": 5}, "alpha_pattern": {r"^down_blocks.*to_q": 9}}
PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("Lora", {"r": 4, "lora_alpha": 2.5}),
    "lora rs": ("Lora", {"r": 6, "lora_alpha": 2.5, "use_rslora": True}),
    "lora patterns": ("Lora", {"r": 4, "lora_alpha": 2.5, **PATTERNS}),
    "lora patterns rs": ("Lora", {"r": 4, "lora_alpha": 2.5, "use_rslora": True, **PATTERNS}),
    "lora anchored patterns": ("Lora", {"r": 4, "lora_alpha": 2.5, **ANCHORED}),
    "lora a pattern of no alpha": ("Lora", {"r": 4, "lora_alpha": 2.5, "alpha_pattern": {"to_q": 1, "to_k": 0}}),
    "lora bias": ("Lora", {"r": 4, "lora_alpha": 2.5, "lora_bias": True, "target_modules": [n for n in FLAT if UNET[n][0] > 0]}),
    "lora dora": ("Lora", {"r": 4, "lora_alpha": 2.5, "use_dora": True}),
    "lora dora rs patterns": ("Lora", {"r": 4, "lora_alpha": 2.5, "use_dora": True, "use_rslora": True, **PATTERNS}),
    "loha": ("LoHa", {"r": 3, "alpha": 2.5}),
    "loha tucker": ("LoHa", {"r": 3, "alpha": 2.5, "use_effective_conv2d": True}),
    "loha patterns": ("LoHa", {"r": 3, "alpha": 2.5, **PATTERNS}),
    "lokr": ("LoKr", {"r": 2, "alpha": 3.0}),
    "lokr patterns": ("LoKr", {"r": 2, "alpha": 3.0, **PATTERNS}),
    "lokr factor tucker": ("LoKr", {"r": 2, "alpha": 3.0, "decompose_factor": 2, "use_effective_conv2d": True}),
    "lokr whole": ("LoKr", {"r": 60, "alpha": 25.0, "decompose_factor": 4}),
    "lokr both": ("LoKr", {"r": 1, "alpha": 3.0, "decompose_both": True}),
    "lokr both tucker": ("LoKr", {"r": 1, "alpha": 3.0, "decompose_both": True, "use_effective_conv2d": True}),
    "ia3": ("IA3", {"feedforward_modules": []}),
    "ia3 feedforward": ("IA3", {"target_modules": ENDS, "feedforward_modules": FEED}),
    "ia3 feedforward by its end": ("IA3", {"target_modules": [*LINEAR, "proj"], "feedforward_modules": ["proj"]}),
    "ia3 feedforward by pattern": ("IA3", {"target_modules": ENDS, "feedforward_modules": r"down_blocks\..*(ff.*|conv\d|proj_in)"}),
    "oft": ("OFT", {"oft_block_size": 4, "target_modules": FLAT}),
    "oft by count": ("OFT", {"r": 4, "oft_block_size": 0, "target_modules": FLAT}),
    "oft exact": ("OFT", {"oft_block_size": 4, "use_cayley_neumann": False, "target_modules": FLAT}),
    "oft 2 terms": ("OFT", {"oft_block_size": 4, "num_cayley_neumann_terms": 2, "target_modules": FLAT}),
    "oft 3 terms": ("OFT", {"oft_block_size": 4, "num_cayley_neumann_terms": 3, "target_modules": FLAT}),
    "oft 4 terms": ("OFT", {"oft_block_size": 4, "num_cayley_neumann_terms": 4, "target_modules": FLAT}),
    "oft 8 terms": ("OFT", {"oft_block_size": 4, "num_cayley_neumann_terms": 8, "target_modules": FLAT}),
    "oft shared": ("OFT", {"oft_block_size": 4, "block_share": True, "target_modules": FLAT}),
    "oft shared exact": ("OFT", {"oft_block_size": 2, "block_share": True, "use_cayley_neumann": False, "target_modules": FLAT}),
    "oft constrained": ("OFT", {"oft_block_size": 4, "coft": True, "eps": 0.9, "target_modules": FLAT}),
    "oft constrained shared": ("OFT", {"oft_block_size": 4, "coft": True, "eps": 0.3, "block_share": True, "target_modules": FLAT}),
    "oft constrained exact": (
        "OFT",
        {"oft_block_size": 4, "coft": True, "eps": 0.9, "use_cayley_neumann": False, "target_modules": FLAT},
    ),
    "boft": ("BOFT", {"boft_block_size": 4}),
    "boft by count": ("BOFT", {"boft_block_size": 0, "boft_block_num": 4}),
    "boft butterfly": ("BOFT", {"boft_block_size": 2, "boft_n_butterfly_factor": 2, "target_modules": ENDS}),
    "pissa": ("Lora", {"r": 4, "lora_alpha": 2.5, **FLOAT, "init_lora_weights": "pissa", "target_modules": LINEAR}),
    "pissa rs": ("Lora", {"r": 4, "lora_alpha": 2.5, **FLOAT, "init_lora_weights": "pissa", "use_rslora": True, "target_modules": LINEAR}),
    "olora": ("Lora", {"r": 4, "lora_alpha": 2.5, **FLOAT, "init_lora_weights": "olora", "target_modules": LINEAR}),
    "mica": ("Lora", {"r": 4, "lora_alpha": 2.5, **FLOAT, "init_lora_weights": "mica", "target_modules": LINEAR}),
    "adalora": ("AdaLora", {"init_r": 5, "target_r": 3, "lora_alpha": 2, "total_step": 10}),
    "hra": ("HRA", {"r": 4, "target_modules": HALVES}),
    "hra of an odd rank": ("HRA", {"r": 5, "target_modules": HALVES}),
    "hra orthogonal": ("HRA", {"r": 4, "apply_GS": True, "target_modules": HALVES}),
    "miss": ("Miss", {"r": 6, "target_modules": LINEAR}),
    "miss mini": ("Miss", {"r": 6, "init_weights": "mini", "mini_r": 4, "target_modules": LINEAR}),
    "miss bat": ("Miss", {"r": 4, "init_weights": "bat", "target_modules": LINEAR}),
    "deft": ("Deft", {"r": 4, "target_modules": LINEAR}),
    "deft alpha": ("Deft", {"r": 4, "alpha": 3, "target_modules": LINEAR}),
    "deft qr": ("Deft", {"r": 4, "alpha": 3, "decomposition_method": "qr", "target_modules": LINEAR}),
    "deft para": ("Deft", {"r": 4, "para": True, "decomposition_method": "qr", "target_modules": LINEAR}),
    "gralora": ("Gralora", {"r": 4, "alpha": 3, "gralora_k": 2, "target_modules": LINEAR}),
    "gralora hybrid": ("Gralora", {"r": 8, "alpha": 3, "gralora_k": 4, "hybrid_r": 3, "target_modules": LINEAR}),
    "shira": ("Shira", {"r": 3, "target_modules": LINEAR}),
    "hira": ("Hira", {"r": 4}),
    "vera": ("Vera", {"r": 5, "target_modules": LINEAR}),
    "delora": ("Delora", {"r": 4, "delora_lambda": 3, "target_modules": LINEAR}),
    "c3a": ("C3A", {"block_size": 4, "target_modules": LINEAR}),
    "beft": ("Beft", {"target_modules": [n for n in LINEAR if UNET[n][0] > 0]}),
    "supertuning": ("Supertuning", {"sparsity": 0.98, "target_modules": LINEAR}),
    "supertuning supra": ("Supertuning", {"sparsity": 0.98, "r": 3, "lora_alpha": 2, "target_modules": LINEAR}),
    "glora peft": ("Glora", {"r": 4, "target_modules": LINEAR}),
    "glora peft of vectors": ("Glora", {"config_A_B": "vector", "config_C": "vector", "target_modules": LINEAR}),
    "glora peft of numbers": ("Glora", {"config_A_B": "constant", "config_C": "none", "config_D_E": "constant", "target_modules": LINEAR}),
    "road 1": ("Road", {"variant": "road_1", "group_size": 8, "target_modules": LINEAR}),
    "road 2": ("Road", {"variant": "road_2", "group_size": 8, "target_modules": LINEAR}),
    "road 4": ("Road", {"variant": "road_4", "group_size": 4, "target_modules": LINEAR}),
    "boft deep butterfly": ("BOFT", {"boft_block_size": 2, "boft_n_butterfly_factor": 3, "target_modules": FEED}),
}


class BlockDiagonal:
    """PEFT's CUDA kernel as plain torch: without it PEFT sets every butterfly to one stage; all else of the forward is PEFT's."""

    @staticmethod
    def forward(blocks: torch.Tensor) -> list[torch.Tensor]:
        """Return (N, n, b, b) as (N, n·b, n·b)."""
        return [torch.stack([torch.block_diag(*stage) for stage in blocks])]


@pytest.fixture
def _butterflies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: BlockDiagonal)


@pytest.mark.usefixtures("_butterflies")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEFT)
def test_peft(name: str, tmp_path: Path) -> None:
    kind, options = PEFT[name]
    path = tmp_path / "adapter_model.safetensors"
    answers, _ = peft_network(f"peft {name}", path, UNET, kind, **options)
    answers.check(path, SINGLE if "dtype" in options else DOUBLE, idle=name == "lora a pattern of no alpha")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["lora dora", "lokr both", "ia3", "oft"])
def test_peft_on_a_text_encoder(name: str, tmp_path: Path) -> None:
    kind, options = PEFT[name]
    path = tmp_path / "adapter_model.safetensors"
    options = {k: v for k, v in options.items() if k != "target_modules"}
    answers, _ = peft_network(f"peft text {name}", path, TEXT, kind, **options)
    answers.check(path, DOUBLE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"block_share": True}, {"use_cayley_neumann": False}])
def test_exception_peft_oft_on_3x3_convolutions(options: dict[str, Any], tmp_path: Path) -> None:
    assert EXCEPTIONS["PEFT OFT on 3x3"]
    path = tmp_path / "adapter_model.safetensors"
    convolutions = [n for n, sizes in UNET.items() if len(sizes) == 4 and sizes[2] == 3]
    name = f"peft oft 3x3 {sorted(options)}"
    answers, adapted = peft_network(name, path, UNET, "OFT", oft_block_size=4, target_modules=convolutions, **options)
    forward = dict(answers.trained)
    merged = adapted.merge_and_unload()
    answers.ask(lambda n: merged.get_submodule(n.removeprefix("model.")))
    answers.check(path, DOUBLE)
    for name in answers.changed:
        change = answers.trained[name] - answers.base[name]
        assert (forward[name] - answers.trained[name]).abs().max() > 0.1 * change.abs().max(), f"{name}: forward and merge agree now"


BARE = {"lora": 4 / 2.5, "loha": 3 / 2.5, "loha tucker": 3 / 2.5, "lokr": 2 / 3, "ia3": 1.0, "oft": 1.0, "boft": 1.0}


@pytest.mark.usefixtures("_butterflies")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BARE)
def test_exception_peft_without_its_config(name: str, tmp_path: Path) -> None:
    """The change is r/alpha of the forward's: the scale is 1."""
    assert EXCEPTIONS["PEFT without its config"]
    kind, options = PEFT[name]
    path = tmp_path / "adapter_model.safetensors"
    answers, _ = peft_network(f"peft bare {name}", path, UNET, kind, **options, times=BARE[name])
    (tmp_path / "adapter_config.json").unlink()
    answers.check(path, DOUBLE)


def test_the_oracle_notices_a_scale_off_by_a_thousandth(tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    answers = lycoris("noticed", path, UNET, "lora", 4, 2.5, times=1 + 1e-3)
    with pytest.raises(AssertionError, match=r"off by (0\.000999|0\.001) of the change"):
        answers.check(path, DOUBLE)
