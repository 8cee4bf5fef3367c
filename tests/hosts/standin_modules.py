"""The stand-in's modules, by the names under which the webui has them."""

from __future__ import annotations

import hashlib
import types
from collections import defaultdict, namedtuple
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from tests.hosts.standin import StandIn


def build(program: StandIn) -> dict[str, types.ModuleType]:
    """Return name -> module."""
    from tests.hosts.standin import EmbeddingTable

    folder = program.folder
    opts = types.SimpleNamespace(data={}, data_labels={}, lyco_add_hashes_to_infotext=True, onchange=lambda *args, **kwargs: None)
    cmd_opts = types.SimpleNamespace(lora_dir=str(folder / "Lora"), lyco_dir_backcompat=str(folder / "LyCORIS"), lyco_dir=None)
    contents: dict[str, dict[str, Any]] = {
        "modules": {"__path__": []},
        "modules.paths": {"models_path": str(folder), "data_path": str(folder)},
        "modules.shared": {"opts": opts, "cmd_opts": cmd_opts},
        "modules.launch_utils": {"git_tag": lambda: "v1.10.1"},
        "modules.extensions": {"extensions": []},
        "modules.hashes": {"sha256": lambda path, title, use_addnet_hash=False: hashlib.sha256(Path(path).read_bytes()).hexdigest()},
        "modules.patches": _patches(),
        "modules.scripts": {"Script": object, "AlwaysVisible": object()},
        "modules.script_callbacks": {f"on_{event}": _listener(program, event) for event in
                                     ("before_ui", "cfg_denoiser", "model_loaded", "script_unloaded", "app_started", "ui_settings")},
        "modules.call_queue": {"queue_lock": Lock()},
        "modules.extra_networks": _extra_networks(program),
        "modules.sd_models": _sd_models(program),
        "modules.prompt_parser": {"get_learned_conditioning": _get_learned_conditioning},
        "modules.sd_samplers": {"find_sampler_config": lambda name: types.SimpleNamespace(total_steps=lambda steps: 2 * steps)},
        "modules.sd_samplers_common": {"Sampler": type("Sampler", (), {"callback_state": lambda self, state: None})},
        "modules.sd_hijack": {"model_hijack": types.SimpleNamespace(embedding_db=EmbeddingTable(), comments=[])},
        "modules.textual_inversion": {"__path__": []},
        "modules.textual_inversion.textual_inversion": {"create_embedding_from_data": _embedding},
    }  # fmt: skip
    if program.built_in:
        contents["networks"] = {"originals": None}
    made = {name: types.ModuleType(name) for name in contents}
    for name, module in made.items():
        vars(module).update(contents[name])
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
    return made


def _patches() -> dict[str, Any]:
    originals: dict[str, dict[Any, Any]] = defaultdict(dict)

    def patch(key: str, owner: Any, name: str, replacement: Any) -> Any:
        if (owner, name) in originals[key]:
            raise RuntimeError(f"patch for {name} is already applied")
        originals[key][(owner, name)] = getattr(owner, name)
        setattr(owner, name, replacement)
        return originals[key][(owner, name)]

    return {"patch": patch, "original": lambda key, owner, name: originals[key].get((owner, name)), "originals": originals}


def _listener(program: StandIn, event: str) -> Callable[..., None]:
    return lambda callback: program.callbacks[event].append(callback)


def _extra_networks(program: StandIn) -> dict[str, Any]:
    def lookup_extra_networks(data: dict[str, list[Any]]) -> dict[Any, list[Any]]:
        found: dict[Any, list[Any]] = {}
        for name, params_list in data.items():
            if name in program.registry:
                found.setdefault(program.registry[name], []).extend(params_list)
        return found

    def register_extra_network(network: Any) -> None:
        program.registry[network.name] = network

    return {"lookup_extra_networks": lookup_extra_networks, "register_extra_network": register_extra_network}


def _sd_models(program: StandIn) -> dict[str, Any]:
    from tests.hosts.standin import Processing

    def get_empty_cond(model: Any) -> Any:
        p = Processing("", steps=50, scripts=False)
        program.activate(p, {})
        return model

    def reload_model_weights(seed: int) -> Any:
        if program.data.sd_model is not program.models[seed]:
            program.load(seed, anew=True)
        return program.data.sd_model

    return {
        "model_data": program.data, "get_empty_cond": get_empty_cond, "reload_model_weights": reload_model_weights,
        "send_model_to_cpu": program.away.add, "send_model_to_device": program.away.discard,
    }  # fmt: skip


ScheduledPromptConditioning = namedtuple("ScheduledPromptConditioning", ["end_at_step", "cond"])


def _get_learned_conditioning(model: Any, prompts: list[str], steps: int) -> list[list[Any]]:
    return [[ScheduledPromptConditioning(steps, model.tiny.named("text")(torch.ones(1, 16)))] for _ in prompts]


def _embedding(data: dict[str, Any], name: str, filename: str) -> Any:
    vectors = data["string_to_param"]["*"]
    return types.SimpleNamespace(name=name, vec=vectors, shape=vectors.shape[-1], vectors=vectors.shape[0], filename=filename)
