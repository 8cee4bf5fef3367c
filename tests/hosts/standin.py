"""A stand-in for AUTOMATIC1111's webui: the modules that our adapter touches, behaving as v1.10.1 was seen to do.

Seen there and copied here: the order of events of a run; the loader that is built in writes <lora:...> into the weights at the next
forward and then calls ``networks.originals.*_forward``; an extra network is activated with no tags for prompts without any, and for the
empty prompt in the middle of a run; deactivation comes only after prompts with tags; what text encoders gave is kept by the text of the
tags; parsed tags of the hires pass are other objects; samplers report a step after its first model call.
"""

from __future__ import annotations

import re
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tests.tiny_model import TinyModel

KINDS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)
TAG = re.compile(r"<(\w+):([^>]+)>")


class Holder(nn.Module):
    """A module that only has parts."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class SdModel(nn.Module):
    """What shared.sd_model looks like for SD1."""

    is_sd1, is_sd2, is_sdxl, is_sd3 = True, False, False, False

    def __init__(self, seed: int) -> None:
        super().__init__()
        tiny = TinyModel(seed)
        self.model = Holder(diffusion_model=tiny.diffusion_model)
        self.cond_stage_model = Holder(wrapped=Holder(transformer=tiny.transformer))
        self.cond_stage_model.tokenize = lambda texts: [[sum(map(ord, text))] for text in texts]
        self.__dict__["tiny"] = tiny
        self.sd_checkpoint_info = types.SimpleNamespace(filename=f"model-{seed}.safetensors", name_for_extra=f"model-{seed}")


class Params:
    """A parsed tag."""

    def __init__(self, items: list[str]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Params) and self.items == other.items

    __hash__ = None  # type: ignore[assignment]


class Processing:
    """A run."""

    cached_c: ClassVar[list[Any]] = [None, None]

    def __init__(self, prompt: str, steps: int = 3, scripts: bool = True) -> None:
        self.prompts, self.steps, self.scripts = [prompt], steps, scripts or None
        self.all_prompts, self.batch_size, self.iteration = [prompt], 1, 0
        self.seeds, self.seed = [1], 1
        self.is_hr_pass = False
        self.extra_generation_params: dict[str, Any] = {}
        self.comments: dict[str, int] = {}
        self.extra_network_data: dict[str, list[Params]] = {}
        self.hr_extra_network_data: dict[str, list[Params]] = {}
        self.step_multiplier = 1

    def infotext(self) -> dict[str, str]:
        """Return what is written into an image: values that can be called are, and None is left out."""
        called = {key: value() if callable(value) else value for key, value in self.extra_generation_params.items()}
        return {key: value for key, value in called.items() if value is not None}

    def comment(self, text: str) -> None:
        self.comments[text] = 1


class EmbeddingTable:
    """The webui's table of embeddings."""

    def __init__(self) -> None:
        self.word_embeddings: dict[str, Any] = {}
        self.expected_shape = 16

    def register_embedding(self, embedding: Any, model: Any) -> Any:
        return self.register_embedding_by_name(embedding, model, embedding.name)

    def register_embedding_by_name(self, embedding: Any, model: Any, name: str) -> Any:
        model.cond_stage_model.tokenize([name])
        self.word_embeddings.pop(name, None)
        if embedding is not None:
            self.word_embeddings[name] = embedding
        return embedding


class StandIn:
    """The program. ``start`` puts its modules into sys.modules, ``stop`` takes them out and gives torch its forwards back."""

    def __init__(self, folder: Path, built_in: bool = True) -> None:
        self.folder, self.built_in = folder, built_in
        self.callbacks: dict[str, list[Callable[..., Any]]] = defaultdict(list)
        self.registry: dict[str, Any] = {}
        self.script: Any = None
        self.loras: dict[str, float] = {}
        self.delta = torch.randn(16, 24, generator=torch.Generator().manual_seed(9)) * 0.3
        self.encoded = 0  # times that the text encoder ran
        self.models = {seed: SdModel(seed) for seed in (0, 1)}
        self.data = types.SimpleNamespace(sd_model=self.models[0])
        self.forwards = {kind: kind.forward for kind in KINDS}
        self.away: set[Any] = set()  # models on the CPU: nothing loads them but send_model_to_device
        self.modules: dict[str, types.ModuleType] = {}
        self.p: Processing | None = None

    def start(self) -> None:
        """Be the program around us."""
        from tests.hosts.standin_modules import build

        self.modules = build(self)
        sys.modules.update(self.modules)
        if self.built_in:
            self.patch_torch()

    def stop(self) -> None:
        """Be gone."""
        for kind, forward in self.forwards.items():
            kind.forward = forward  # type: ignore[method-assign]
        for name in self.modules:
            sys.modules.pop(name, None)

    def patch_torch(self) -> None:
        """Do what the built-in loader does when its script is read: new originals, and forwards that apply <lora:...> first."""
        networks = self.modules["networks"]
        originals = types.SimpleNamespace(**{f"{kind.__name__}_forward": self.forwards[kind] for kind in KINDS})
        networks.originals = originals  # type: ignore[attr-defined]
        for kind in KINDS:
            kind.forward = self._around(f"{kind.__name__}_forward")  # type: ignore[method-assign]

    def _around(self, name: str) -> Callable[..., Any]:
        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if module is self.data.sd_model.__dict__["tiny"].named("linear"):
                self._write(module)
            return getattr(self.modules["networks"].originals, name)(module, *args, **kwargs)

        return forward

    def _write(self, module: Any) -> None:
        """Write <lora:...> into the weight, or the base back from the copy that is kept."""
        wanted = tuple(sorted(self.loras.items()))
        if wanted == module.__dict__.get("current_names", ()):
            return
        with torch.no_grad():
            if "backup" not in module.__dict__:
                module.__dict__["backup"] = module.weight.clone()
            module.weight.copy_(module.__dict__["backup"])
            for _, strength in wanted:
                module.weight.copy_(module.weight + strength * self.delta)
        module.__dict__["current_names"] = wanted

    def reload_ui(self, read_script: Callable[[], None]) -> None:
        """Reload the UI: callbacks and the registry are forgotten, scripts are read again, the model stays."""
        for callback in self.callbacks["script_unloaded"]:
            callback()
        self.callbacks.clear()
        if self.built_in:
            self.patch_torch()
        read_script()
        self.registry.clear()
        self.before_ui()

    def before_ui(self) -> None:
        """Fire the event of that name; the built-in loader registers its network in it, as we do."""
        for callback in self.callbacks["before_ui"]:
            callback()
        if self.built_in:
            self.registry["lora"] = BuiltIn(self)

    def load(self, seed: int, anew: bool = False) -> None:
        """Change to another model, as in the middle of a run; a model that is made anew computes the empty prompt at its end."""
        self.data.sd_model = self.models[seed]
        if anew:
            for callback in self.callbacks["model_loaded"]:
                callback(self.data.sd_model)
            self.modules["modules.sd_models"].get_empty_cond(self.data.sd_model)

    def run(self, prompt: str, refiner: int | None = None, **fields: Any) -> Tensor:
        """Make an image."""
        self.modules["modules.sd_models"].reload_model_weights(0)
        p = self.p = Processing(prompt, **fields)
        if p.scripts and self.script:
            self.script.before_process(p)
        text, p.extra_network_data = parse(prompt)
        p.prompts = [text]
        self.activate(p, p.extra_network_data)
        return self._sample(p, refiner)

    def run_batches(self, *batches: list[str]) -> list[dict[str, str]]:
        """Make batches of as many images each in one run; return the text of an image of each."""
        p, texts = Processing(batches[0][0]), []
        p.all_prompts, p.batch_size = [prompt for batch in batches for prompt in batch], len(batches[0])
        self.p = p
        if self.script:
            self.script.before_process(p)
        for p.iteration, batch in enumerate(batches):
            p.prompts, p.extra_network_data = [parse(prompt)[0] for prompt in batch], parse(batch[0])[1]
            self.activate(p, p.extra_network_data)
            texts.append(p.infotext())
        return texts

    def activate(self, p: Processing, data: dict[str, list[Params]]) -> None:
        """Call every network, those with tags first, in the order of the tags."""
        found = self.modules["modules.extra_networks"].lookup_extra_networks(data)
        for network, params_list in found.items():
            network.activate(p, params_list)
        for network in self.registry.values():
            if network not in found:
                network.activate(p, [])
        if p.scripts and self.script:
            self.script.after_extra_networks_activate(p)

    def encode(self, p: Processing, step: int = 0) -> Tensor:
        """Run the text encoder, unless the same tags were there just before; return what it gives for a step."""
        info = self.data.sd_model.sd_checkpoint_info
        key = (p.prompts, {name: [params.items for params in found] for name, found in p.extra_network_data.items()}, info.filename)
        if p.cached_c[0] != key:
            self.encoded += 1
            encoder = self.modules["modules.prompt_parser"].get_learned_conditioning
            p.cached_c[:] = [key, encoder(self.data.sd_model, p.prompts, p.steps)[0]]
        return next(cond for end, cond in p.cached_c[1] if step <= end)  # type: ignore[no-any-return]

    @torch.no_grad()
    def _sample(self, p: Processing, refiner: int | None) -> Tensor:
        if self.data.sd_model in self.away:
            raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!")
        outputs = [self.encode(p).flatten()]
        x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
        sampler = self.modules["modules.sd_samplers_common"].Sampler()
        for step in range(p.steps):
            if refiner is not None and step == p.steps // 2:
                self.modules["modules.sd_models"].reload_model_weights(refiner)
                outputs.append(self.encode(p).flatten())
            denoiser = types.SimpleNamespace(step=step, steps=p.steps, total_steps=p.steps, p=p)
            for callback in self.callbacks["cfg_denoiser"]:
                callback(types.SimpleNamespace(denoiser=denoiser, sampling_step=max(step - 1, 0), total_sampling_steps=p.steps))
            outputs += [self.data.sd_model.tiny(x).flatten(), self.encode(p, step).flatten()]
            sampler.callback_state({"i": step})
            x = x + 0.1 * outputs[-2].mean()
        if p.extra_network_data:
            for network in self.registry.values():
                network.deactivate(p)
        if p.scripts and self.script:
            self.script.postprocess(p, None)
        return torch.cat(outputs)


class BuiltIn:
    """The webui's own network, ``lora``: here always the same change, of one layer."""

    name = "lora"

    def __init__(self, program: StandIn) -> None:
        self.program = program

    def activate(self, p: Processing, params_list: list[Params]) -> None:
        self.program.loras = {params.items[0]: float(params.items[1]) for params in params_list}
        if not p.is_hr_pass or not hasattr(p, "lora_hashes"):
            p.lora_hashes = {}  # type: ignore[attr-defined]
        p.lora_hashes.update(dict.fromkeys(self.program.loras, "0" * 12))  # type: ignore[attr-defined]
        if p.lora_hashes:  # type: ignore[attr-defined]
            p.extra_generation_params["Lora hashes"] = ", ".join(f"{k}: {v}" for k, v in p.lora_hashes.items())  # type: ignore[attr-defined]

    def deactivate(self, p: Processing) -> None:
        """Leave everything in place."""


def parse(prompt: str) -> tuple[str, dict[str, list[Params]]]:
    """Return a prompt without its tags, and these by name."""
    found: dict[str, list[Params]] = defaultdict(list)

    def take(match: re.Match[str]) -> str:
        found[match[1]].append(Params(match[2].split(":")))
        return ""

    return TAG.sub(take, prompt), found


@contextmanager
def running(folder: Path, built_in: bool = True, program: StandIn | None = None) -> Iterator[StandIn]:
    """Have a stand-in around us."""
    program = program or StandIn(folder, built_in)
    program.start()
    try:
        yield program
    finally:
        program.stop()
