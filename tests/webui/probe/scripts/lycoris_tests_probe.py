"""For tests only: tells what the API of the webui does not - the model's bits, and the memory that the server holds."""

import gc
import hashlib
import os

from modules import script_callbacks, shared

UNFILLED = "transformer.text_projection.weight"  # SD1's files have none: these hosts leave in it what the memory held, anew at each load


def tensors():
    """Return the loaded model's parameters and buffers by name; Forge and what came of it hold the parts apart."""
    objects = getattr(shared.sd_model, "forge_objects_original", None)
    if objects is None:
        return shared.sd_model.state_dict()
    parts = {"unet": objects.unet.model, "text": objects.clip.cond_stage_model}
    found = {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}
    return {name: tensor for name, tensor in found.items() if not name.endswith(UNFILLED)}


def state():
    """Return a digest of every parameter and buffer of the loaded model, and the resident memory in MB."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    gc.collect()
    with open(f"/proc/{os.getpid()}/statm") as file:
        pages = int(file.read().split()[1])
    return {"bits": digest.hexdigest(), "memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20}


def digests():
    """Return a digest of each parameter and buffer, to see which of them changed."""
    found = {name: tensor.detach().cpu().contiguous().numpy().tobytes() for name, tensor in tensors().items()}
    return {name: hashlib.sha256(content).hexdigest()[:12] for name, content in found.items()}


def hooked():
    """Tell whether anything of ours is between the webui and its model."""
    import networks
    from modules import patches, sd_models

    forwards = {name: f.__module__ for name, f in vars(networks.originals).items() if name.endswith("_forward") and f}
    return {"forwards": forwards, "empty": sd_models.get_empty_cond.__module__, "patches": list(patches.originals)}


script_callbacks.on_app_started(lambda _, app: app.add_api_route("/tests/state", state, methods=["GET"]))
script_callbacks.on_app_started(lambda _, app: app.add_api_route("/tests/digests", digests, methods=["GET"]))
script_callbacks.on_app_started(lambda _, app: app.add_api_route("/tests/hooked", hooked, methods=["GET"]))
