"""Settings -> everything that a run works with: model, images, network, optimiser, in the order in which they can fail."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch

from ..errors import ToolError
from ..hosts.embedded.folders import data_folder, kept_folder, own_networks
from ..networks.reading.dtypes import precision_dtype
from ..patching import Patcher
from ..tools.jobs.devices import check_device
from ..tools.training.place import check_run_name
from ..tools.training.runs import STATE
from .algorithms.arguments import NetworkRequest, understand
from .algorithms.build import build_network
from .algorithms.initial import Initial
from .algorithms.trained_network import TrainedNetwork
from .cache import Cache
from .data.folders import datasets_of, left_out
from .data.items import Catalogue, catalogue, digest_of
from .data.order import Order
from .data.report import as_text, data_report
from .files import final_file, run_folder
from .models.base import TrainedModel
from .models.opening import open_model
from .reporting.events import Events
from .reporting.recorded import Recorded
from .settings import Settings
from .steps.draws import seed_everything
from .steps.lessons import Lessons
from .steps.optimisers import groups, optimiser, schedule, told
from .steps.step import Stepper

SMALLEST = 64  # pixels: any size does where only what is wrong is looked for


@dataclass
class Run:
    """One training, ready to go."""

    settings: Settings
    request: NetworkRequest
    output: Path
    folder: Path
    events: Events
    accelerator: Any
    model: TrainedModel
    found: Catalogue
    network: TrainedNetwork
    lessons: Lessons
    order: Order
    optimiser: Any
    schedule: Any
    stepper: Stepper
    recorded: Recorded
    steps: int

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return bool(self.accelerator.is_main_process)

    def epoch_after(self, step: int) -> int:
        """Return how many epochs are whole after so many steps."""
        return int(step * self.settings.gradient_accumulation_steps // self.order.length)


def prepare(settings: Settings) -> Run:
    """Open everything. Raises LycorisError with a sentence on what cannot be trained."""
    settings = _seeded(settings)
    check_run_name(settings.output_name)
    request = understand(settings)
    datasets_of(settings, SMALLEST)  # what is wrong with them is said before a model is opened
    output = Path(settings.output_dir) if settings.output_dir else own_networks(kept_folder())
    folder = run_folder(settings, output)
    _refuse_what_is_there(settings, output, folder)
    accelerator, device = _accelerator(settings)
    events = Events(folder, quiet=not accelerator.is_main_process)
    model = open_model(settings, device, _held_in(settings))
    found = _images(settings, model, events)
    network = _network(settings, request, model)
    lessons = _lessons(settings, model, network, found)
    order = Order(found, settings.seed, accelerator.num_processes)
    steps = _steps(settings, order)
    made = optimiser(settings, groups(network, settings, request))
    rate = schedule(settings, made, steps)
    prepared = _prepared(settings, accelerator, made)
    stepper = Stepper(model, network, settings, request, lessons, accelerator)
    recorded = Recorded(settings, request, model, found, order.length)
    return Run(
        settings,
        request,
        output,
        folder,
        events,
        accelerator,
        model,
        found,
        network,
        lessons,
        order,
        prepared,
        rate,
        stepper,
        recorded,
        steps,
    )


def _refuse_what_is_there(settings: Settings, output: Path, folder: Path) -> None:
    """Raise ToolError where a run or a file of this name is there, and nothing says what is to become of it."""
    if settings.resume or settings.overwrite or settings.dry_run:
        return
    state, final = folder / STATE, final_file(settings, output)
    if state.is_file() or final.exists():
        what = f"a run called {settings.output_name}" if state.is_file() else final.name
        raise ToolError(f"{what} is there already; give --resume to go on with it, --overwrite to begin anew, or another --output_name")


def _steps(settings: Settings, order: Order) -> int:
    """Return how many steps the run has."""
    batches: int = order.length * (settings.max_train_epochs or 0)
    return ceil(batches / settings.gradient_accumulation_steps) or int(settings.max_train_steps)


def _held_in(settings: Settings) -> torch.dtype:
    """Return the dtype of the base model's weights."""
    return precision_dtype(None if settings.mixed_precision == "no" else settings.mixed_precision, torch.float32)


def _prepared(settings: Settings, accelerator: Any, made: Any) -> Any:
    """Return an optimiser that is ready for its first step."""
    ready = accelerator.prepare(made)
    told(settings, ready, training=True)
    return ready


def _network(settings: Settings, request: NetworkRequest, model: TrainedModel) -> TrainedNetwork:
    seed_everything(settings.seed, "network")
    base = Patcher(model.parts(), model.family).base
    initial = Initial(settings.network_weights, base, settings.dim_from_weights) if settings.network_weights else None
    network = build_network(model, request, _parts(settings, model), initial)
    if settings.gradient_checkpointing:
        _checkpoint(model)
    return network


def _lessons(settings: Settings, model: TrainedModel, network: TrainedNetwork, found: Catalogue) -> Lessons:
    texts = any(one.component.startswith("text_encoder") for one in network.entries)
    fixed = all(subset.fixed_captions for data in found.datasets for subset in data.subsets)
    cache = Cache(settings.cache_dir or data_folder() / "cache" / "training") if settings.cache_latents else None
    return Lessons(model, settings, cache, texts, fixed)


def _seeded(settings: Settings) -> Settings:
    if settings.v_parameterization is None:
        settings = settings.with_(v_parameterization=False)
    return settings if settings.seed is not None else settings.with_(seed=secrets.randbelow(2**31))


def _accelerator(settings: Settings) -> tuple[Any, torch.device]:
    from accelerate import Accelerator

    on_cpu = settings.device == "cpu"
    made = Accelerator(mixed_precision=settings.mixed_precision, cpu=on_cpu)
    device = made.device
    if settings.device and made.num_processes == 1:
        check_device(settings.device)
        device = torch.device(settings.device)
    if settings.mixed_precision == "fp16" and device.type == "cpu":
        raise ToolError("--mixed_precision fp16 is for GPUs; on the CPU give bf16 or no")
    return made, device


def _images(settings: Settings, model: TrainedModel, events: Events) -> Catalogue:
    seed = settings.validation_seed if settings.validation_seed is not None else settings.seed
    found = catalogue(datasets_of(settings, model.size), lambda done, total: None, settings.validation_split, seed)
    found.left_out = left_out(settings)
    if not events.quiet:
        print(as_text(data_report(found)), flush=True)
    return found


def _parts(settings: Settings, model: TrainedModel) -> list[str]:
    """Return the components that are trained: those with a rate that the settings do not leave alone."""
    names = list(model.parts())
    if settings.network_train_unet_only or (settings.text_encoder_lr is not None and not any(settings.text_encoder_lr)):
        names = names[:1]
    if settings.network_train_text_encoder_only or settings.unet_lr == 0:
        names = [name for name in names if name.startswith("text_encoder")]
    return names


def _checkpoint(model: TrainedModel) -> None:
    """Compute activations again where they are needed; diffusers and transformers do so in training only."""
    denoiser, *encoders = model.parts().values()
    denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    denoiser.train()
    for encoder in encoders:
        encoder.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        encoder.train()


def mark_facts(run: Run) -> tuple[dict[str, Any], list[str]]:
    """Return what a run's bits depend on: settings, the content of the images and of a preset's file."""
    digests: Sequence[str] = [f"{item.digest} {item.subset.repeats} {item.caption}" for item in run.found.items]
    if run.request.preset.endswith(".toml"):
        digests = [*digests, digest_of(Path(run.request.preset))]
    return {**run.settings.kept(), "max_train_steps": run.steps, "processes": run.accelerator.num_processes}, list(digests)
