"""Optimisers by sd-scripts' names, from the libraries that have them; the rates of each part of the network; the schedule."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from ...errors import ToolError
from ..algorithms.arguments import NetworkRequest
from ..algorithms.trained_network import TrainedNetwork

UP = "lora_up"  # LoRA+ lets this factor learn faster
PARTS = ("unet", "transformer")
PACKAGES: Mapping[str, tuple[str, str, str]] = {  # name -> module, class, extra of this project
    "AdamW": ("torch.optim", "AdamW", ""),
    "SGDNesterov": ("torch.optim", "SGD", ""),
    "AdaFactor": ("transformers.optimization", "Adafactor", ""),
    "AdamW8bit": ("bitsandbytes.optim", "AdamW8bit", "train-8bit"),
    "PagedAdamW8bit": ("bitsandbytes.optim", "PagedAdamW8bit", "train-8bit"),
    "Prodigy": ("prodigyopt", "Prodigy", "train-prodigy"),
    "AdamWScheduleFree": ("schedulefree", "AdamWScheduleFree", "train-schedulefree"),
    "RAdamScheduleFree": ("schedulefree", "RAdamScheduleFree", "train-schedulefree"),
    "SGDScheduleFree": ("schedulefree", "SGDScheduleFree", "train-schedulefree"),
}
FREE = ("AdamWScheduleFree", "RAdamScheduleFree", "SGDScheduleFree")  # they need to be told between training and use


def rates(settings: Any) -> dict[str, float]:
    """Return the learning rate of each component."""
    whole = settings.learning_rate
    texts = settings.text_encoder_lr or [whole]
    unet = whole if settings.unet_lr is None else settings.unet_lr
    return {"unet": unet, "transformer": unet, "text_encoder": texts[0], "text_encoder_2": texts[min(1, len(texts) - 1)]}


def groups(network: TrainedNetwork, settings: Any, request: NetworkRequest) -> list[dict[str, Any]]:
    """Return the parameters in groups of one rate each. Raises ToolError where nothing is left to train."""
    found: dict[tuple[str, bool], list[Any]] = {}
    for one in network.entries:
        ratio = request.up_ratio.get("unet" if one.component in PARTS else "text_encoder")
        for name, parameter in one.module.named_parameters():
            if parameter.requires_grad:
                found.setdefault((one.component, bool(ratio) and UP in name), []).append(parameter)
    made = []
    for (component, faster), parameters in found.items():
        rate = rates(settings)[component]
        if faster:
            rate *= request.up_ratio["unet" if component in PARTS else "text_encoder"]
        if rate:
            made.append({"params": parameters, "lr": rate, "name": f"{component} up" if faster else component})
    if not made:
        raise ToolError("every learning rate is 0, so nothing is trained; give --learning_rate, --unet_lr or --text_encoder_lr")
    return made


def optimiser(settings: Any, parameters: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimiser that settings name. Raises ToolError for one whose package is missing, or arguments that it does not take."""
    module, kind, extra = PACKAGES[settings.optimizer_type]
    try:
        made = getattr(import_module(module), kind)
    except ImportError as error:
        raise ToolError(
            f"--optimizer_type {settings.optimizer_type} needs the package {module.partition('.')[0]}; `python3 run.py train` installs it "
            f"where that option is given, elsewhere: pip install 'sd-webui-lycoris[{extra}]'"
        ) from error
    arguments: dict[str, Any] = {"nesterov": True, "momentum": 0.9} if settings.optimizer_type == "SGDNesterov" else {}
    if settings.optimizer_type == "AdaFactor":
        arguments = {"relative_step": False, "scale_parameter": False}  # the rate is the one that was given
    if settings.optimizer_type in FREE and settings.lr_warmup_steps:
        arguments["warmup_steps"] = int(settings.lr_warmup_steps)
    arguments.update(_arguments(settings.optimizer_args or ()))
    try:
        built: torch.optim.Optimizer = made(list(parameters), lr=settings.learning_rate, **arguments)
        return built
    except (TypeError, ValueError) as error:
        raise ToolError(f"{settings.optimizer_type} does not take these --optimizer_args: {error}") from error


def _arguments(words: Sequence[str]) -> dict[str, Any]:
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ToolError(f'--optimizer_args takes name=value, but "{word}" is given')
        try:
            found[name.strip()] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            found[name.strip()] = text.strip()
    return found


def schedule(settings: Any, made: torch.optim.Optimizer, steps: int) -> Any:
    """Return the learning rate's schedule over so many steps."""
    from diffusers.optimization import get_scheduler

    warm = settings.lr_warmup_steps
    warm = int(warm * steps) if 0 < warm < 1 else int(warm)
    if settings.optimizer_type in FREE:
        return get_scheduler("constant", made)
    name = "constant_with_warmup" if settings.lr_scheduler == "constant" and warm else settings.lr_scheduler
    return get_scheduler(
        name, made, num_warmup_steps=warm, num_training_steps=steps, num_cycles=settings.lr_scheduler_num_cycles,
        power=settings.lr_scheduler_power,
    )  # fmt: skip


def told(settings: Any, made: Any, training: bool) -> None:
    """Tell an optimiser that keeps two sets of weights which of them is wanted."""
    if settings.optimizer_type in FREE:
        change: Callable[[], None] = made.train if training else made.eval
        change()
