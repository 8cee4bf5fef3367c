"""For tests only: has our pages' generator make an image, and stop one."""

import base64
import io
import sys
import threading

from modules import script_callbacks


def generate(prompt: str, steps: int = 4, stop_at: int = 0):
    """Return a 64x64 image, or that it was cancelled, with the steps that were told."""
    generator = sys.modules["lib_lycoris.hosts.webui.generate"].WebuiGenerator()
    protocol = sys.modules["lib_lycoris.hosts.protocol"]
    told, cancel = [], threading.Event()

    def progress(at):
        told.append(at.step)
        if stop_at and at.step >= stop_at:
            cancel.set()

    request = protocol.GenerationRequest(prompt, seed=1, steps=steps, width=64, height=64, cfg=5.0, sampler="Euler")
    try:
        made = generator.generate(request, progress, cancel)
    except protocol.GenerationCancelled:
        return {"cancelled": True, "told": told}
    buffer = io.BytesIO()
    made.image.save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    said = {"applied": made.applied, "problems": made.problems, "infotext": made.infotext}
    return {"image": image, "told": told, "size": generator.size, **said}


script_callbacks.on_app_started(lambda _, app: app.add_api_route("/tests/generate", generate, methods=["POST"]))
