"""--network_module and --network_args -> which modules of lycoris-lora are made, with which options; what is not known is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ...errors import ToolError
from ...records import dataclass
from ...tools.training.network_options import ALGORITHMS

FIXED = {  # modules of sd-scripts that are one algorithm
    "networks.lora": "lora", "networks.lora_flux": "lora", "networks.lora_fa": "lora", "networks.dylora": "dylora",
    "networks.loha": "loha", "networks.lokr": "lokr",
}  # fmt: skip
SPELLINGS = {"use_cp": "use_tucker", "use_conv_cp": "use_tucker", "constrain": "constraint", "unit": "block_size"}
ALL_BLOCKS = ("train_double_block_indices", "train_single_block_indices")  # of sd-scripts' Flux.1, which programs write out
TRUE, FALSE = ("true", "1", "yes", "y", "t"), ("false", "0", "no", "n", "f", "none", "")


def truth(text: str) -> bool:
    """Return what a word says. Raises ValueError for one that says neither."""
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise ValueError(text)


def numbers(text: str) -> tuple[float, ...]:
    """Return numbers that commas separate."""
    return tuple(float(part) for part in text.split(","))


ARGUMENTS: Mapping[str, Callable[[str], Any]] = {
    "algo": str, "preset": str, "conv_dim": int, "conv_alpha": float, "dropout": float, "rank_dropout": float, "module_dropout": float,
    "rank_dropout_scale": truth, "use_tucker": truth, "use_scalar": truth, "block_size": int, "train_norm": truth, "constraint": float,
    "rescaled": truth, "dora_wd": truth, "wd_on_output": truth, "full_matrix": truth, "bypass_mode": truth, "rs_lora": truth,
    "unbalanced_factorization": truth, "decompose_both": truth, "factor": int, "loraplus_lr_ratio": float, "loraplus_unet_lr_ratio": float,
    "loraplus_text_encoder_lr_ratio": float, "block_dims": numbers, "block_alphas": numbers, "sig_type": str, "use_data_init": truth,
    "train_on_input": truth, "tlora_min_rank": int, "tlora_rank_power": float,
}  # fmt: skip
# name here -> keyword of lycoris-lora's modules, where they differ
KEYWORDS = {"dora_wd": "weight_decompose", "wd_on_output": "wd_on_out"}
MODULE_OPTIONS = (
    "use_scalar", "rank_dropout_scale", "block_size", "constraint", "rescaled", "dora_wd", "wd_on_output", "full_matrix", "bypass_mode",
    "rs_lora", "unbalanced_factorization", "decompose_both", "factor", "sig_type", "use_data_init", "train_on_input",
)  # fmt: skip


@dataclass(frozen=True)
class NetworkRequest:
    """What network a training asks for."""

    algorithm: str
    dim: int
    alpha: float
    conv_dim: int | None  # None: convolutions wider than 1x1 are left alone
    conv_alpha: float
    preset: str
    train_norm: bool
    freeze_down: bool  # LoRA-FA: the first factor stays as it was drawn
    dropout: float
    rank_dropout: float
    module_dropout: float
    use_tucker: bool
    options: Mapping[str, Any] = field(default_factory=dict)  # keywords of lycoris-lora's modules
    up_ratio: Mapping[str, float] = field(default_factory=dict)  # LoRA+: "unet", "text_encoder" -> how much faster the second factor learns
    block_dims: tuple[float, ...] = ()
    block_alphas: tuple[float, ...] = ()
    mask: tuple[int, float] | None = None  # T-LoRA: fewest ranks, power
    given: Mapping[str, str] = field(default_factory=dict)  # as they are written into the file


def understand(settings: Any) -> NetworkRequest:
    """Return the network that settings ask for. Raises ToolError naming the argument."""
    text = _pairs(settings.network_args or ())
    found = {name: _value(name, value) for name, value in text.items()}
    fixed = FIXED.get(settings.network_module)
    if fixed and "algo" in found:
        raise ToolError(f"--network_module {settings.network_module} is one algorithm; for algo={found['algo']} give lycoris.kohya")
    algorithm = fixed or str(found.get("algo", "lora")).lower()
    if algorithm not in ALGORITHMS:
        raise ToolError(f"algo={algorithm} is no algorithm of lycoris-lora; there are {', '.join(ALGORITHMS)}")
    _refuse_unreadable(found)
    whole = found.get("conv_dim", None if fixed or algorithm == "tlora" else settings.network_dim)  # T-LoRA has no wide convolutions
    return NetworkRequest(
        algorithm, settings.network_dim, float(settings.network_alpha), whole, float(found.get("conv_alpha", settings.network_alpha)),
        str(found.get("preset", "kohya" if fixed else "ia3" if algorithm == "ia3" else "full")), bool(found.get("train_norm", False)),
        settings.network_module == "networks.lora_fa", float(found.get("dropout", settings.network_dropout or 0.0)),
        float(found.get("rank_dropout", 0.0)), float(found.get("module_dropout", 0.0)), bool(found.get("use_tucker", False)),
        {KEYWORDS.get(name, name): found[name] for name in MODULE_OPTIONS if name in found}, _ratios(found),
        found.get("block_dims", ()), found.get("block_alphas", ()), _mask(algorithm, found),
        {"algo": algorithm, **{name: without_folder(value) for name, value in text.items()}},
    )  # fmt: skip


def _refuse_unreadable(found: Mapping[str, Any]) -> None:
    """Raise for settings whose files nobody can read: they do not hold what training began with, and it cannot be found again."""
    if found.get("sig_type", "principal") != "principal" or not found.get("use_data_init", True):
        raise ToolError("T-LoRA's files do not say what training began with; only sig_type=principal with use_data_init can be read again")


def _pairs(words: Sequence[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = SPELLINGS.get(name.strip(), name.strip())
        if not equals:
            raise ToolError(f'--network_args takes name=value, but "{word}" is given')
        if name in ALL_BLOCKS and value.strip() == "all":
            continue
        if name == "disable_conv_cp":
            name, value = "use_tucker", str(not truth(value))
        if name not in ARGUMENTS:
            near = get_close_matches(name, ARGUMENTS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(ARGUMENTS)}"
            raise ToolError(f"--network_args: {name} is not known here; {hint}")
        found[name] = value.strip()
    return found


def _value(name: str, text: str) -> Any:
    try:
        return ARGUMENTS[name](text)
    except ValueError:
        raise ToolError(f"--network_args: {name}={text} cannot be read as {getattr(ARGUMENTS[name], '__name__', 'a value')}") from None


def without_folder(text: str) -> str:
    """Return an argument as a file of the network keeps it: of a preset's file its name alone."""
    name, equals, value = text.rpartition("=")
    return name + equals + Path(value).name if value.endswith(".toml") else text


def _ratios(found: Mapping[str, Any]) -> dict[str, float]:
    both = found.get("loraplus_lr_ratio")
    ratios = {"unet": found.get("loraplus_unet_lr_ratio", both), "text_encoder": found.get("loraplus_text_encoder_lr_ratio", both)}
    return {name: float(ratio) for name, ratio in ratios.items() if ratio}


def _mask(algorithm: str, found: Mapping[str, Any]) -> tuple[int, float] | None:
    if algorithm != "tlora":
        return None
    return int(found.get("tlora_min_rank", 1)), float(found.get("tlora_rank_power", 1.0))
