"""Hold a host's own classes of models to our tables and our engine: run by the host's python, prints one JSON object a line.

`PYTHON host_families.py --webui DIR [FAMILY ...]`: of each family that the host has, (a) the names and shapes that its class has at real
widths, where the host tells them from a file's keys, against the declared ones; (b) at tiny widths the output with a network of ours on
the host's layers, in plain and in fp8 storage, against the same class with the network merged into its weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
ALGORITHMS = ("lora", "loha", "lokr_whole", "dora_out", "oft", "ia3_out", "full", "norm")
MODES = ("functional", "merged", "recompute")
STRENGTH = 0.7
Found = dict[str, Any]


class Holder(nn.Module):
    """What holds a transformer in a webui."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.diffusion_model = model


def real_widths(host: str, family: str, variant: str) -> Found:
    """Compare the names and shapes of the class that the host chooses for a file of this family with the declared ones."""
    from host_models import make

    from lib_lycoris import models, patching

    declared = {name: info for name, info in models.reference(family, variant).layers.items() if name.startswith("diffusion_model.")}
    state = {}
    for name, info in declared.items():
        leaves = ["weight", "scale"] if len(info.shape) == 1 else ["weight"]
        for key in [name] if info.kind == "Parameter" else [f"{name}.{leaf}" for leaf in leaves]:
            state[f"model.{key}"] = torch.empty(info.shape, device="meta")
        if info.bias:
            state[f"model.{name}.bias"] = torch.empty(info.shape[:1], device="meta")
    with torch.device("meta"):
        model = make(host, family, sizes_of(host, state))
    live = patching.Patcher({"model": Holder(model)}, family)
    bare = {f"diffusion_model.{name}" for name, _ in (*model.named_parameters(), *model.named_buffers())}  # those of no layer
    elsewhere = {name for name in declared if ".llm_adapter." in name}  # with the text encoder in Neo
    missing = [name for name in declared if name not in live.base.layers and name not in bare | elsewhere]
    other = [name for name in declared if name in live.base.layers and declared[name].shape != live.base.layers[name].shape]
    return {"layers": len(live.base.layers), "unknown": live.names.unknown, "missing": missing, "other": other}


def sizes_of(host: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the sizes that the host reads off a file."""
    if host == "reforge":
        from ldm_patched.modules import model_detection

        found: dict[str, Any] = model_detection.model_config_from_unet(state, "model.diffusion_model.").unet_config
        return found
    import huggingface_guess

    sizes: dict[str, Any] = huggingface_guess.guess(dict(state)).unet_config
    return sizes


def merged(network: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters with a network in them."""
    found = {name: tensor.clone() for name, tensor in state.items()}
    for name, algorithm in network.patches.items():
        module, _, leaf = name.removeprefix("diffusion_model.").rpartition(".")
        leaves = ("weight", "scale") if leaf in ("weight", "scale") else (leaf,)  # what a class calls it
        key = next(key for key in (f"{module}.{leaf}" for leaf in leaves) if key in found)
        found[key] += STRENGTH * algorithm.delta(state[key])
    return found


@torch.no_grad()
def tiny_widths(host: str, family: str, storage: str, folder: Path) -> Iterator[Found]:
    """Compare outputs with a network of each algorithm on all layers that can have it."""
    from host_models import fill, inputs, make
    from host_storages import STORAGES

    from lib_lycoris import Activation, load
    from lib_lycoris.hosts.webui import adapters
    from lib_lycoris.hosts.webui.adapters.guard import Guard, GuardedPatcher
    from tests.webui.files import write_network

    reference = make(host, family)
    fill(reference, 1)
    model, state = STORAGES[storage](host, family, {name: tensor.clone() for name, tensor in reference.state_dict().items()})
    guard = Guard()
    reference.load_state_dict(state)
    for own, theirs in zip(reference.buffers(), model.buffers()):  # tables of positions are cast too
        own.copy_(theirs)
    given = inputs(host, family, reference)
    patcher = GuardedPatcher({"model": Holder(model)}, family, adapters.adapter().layers, guard)
    yield {"unknown": patcher.names.unknown, "far": far(model(**given), reference(**given)), "moved": 1.0}
    layers = [name for name, info in patcher.base.layers.items() if len(info.shape) in (1, 2, 4) and 1 not in info.shape[:1]]
    for algorithm in ALGORITHMS:
        path = folder / f"{family}-{algorithm}.safetensors"
        count = write_network(path, patcher.base, algorithm, layers, "dotted", size=0.5)
        network = load(path, patcher.base, torch.float32)
        reference.load_state_dict(state)
        base = reference(**given)
        reference.load_state_dict(merged(network, state))
        expected = reference(**given)
        for mode in MODES:
            report = patcher.apply([Activation(network, lambda name: STRENGTH)], mode)
            found = model(**given)
            patcher.restore()
            yield {"algorithm": algorithm, "mode": mode, "layers": count, "far": far(found, expected), "moved": far(expected, base),
                   "told": [*report.problems, *guard.take_failures()], "left": far(model(**given), base)}  # fmt: skip


def far(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, of the largest value."""
    return float((one.float() - other.float()).abs().max() / other.float().abs().max())


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--webui", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--variants", nargs="*", default=[], help="family:variant whose real widths are compared")
    parser.add_argument("--stored", nargs="*", default=["plain", "fp8"], help="of host_storages.py")
    parser.add_argument("families", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sys.argv[1:] = []
    sys.path.insert(0, str(ROOT))
    from forge_checkpoint import enter

    from tests.webui.kinds import recognise

    host = recognise(arguments.webui).name
    enter(arguments.webui)
    for text in arguments.variants:
        family, _, variant = text.partition(":")
        print(json.dumps({"family": family, "variant": variant, **real_widths(host, family, variant)}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for family in arguments.families:
            for storage in arguments.stored:
                for found in tiny_widths(host, family, storage, Path(folder)):
                    print(json.dumps({"family": family, "stored": storage, **found}), flush=True)


if __name__ == "__main__":
    main()
