"""Registers our webui callbacks, plus a hidden always-on script for the two events that have no callback."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from .activation import Refusal, network
from .callbacks import listen
from .comments import merge_hashes
from .folders import summary
from .host import WebuiHost, host


def before_ui(*actions: Callable[[], None]) -> None:
    """Have all of this done right before the webui builds its UI; it forgets callbacks when that is reloaded, and our script runs again."""

    def run() -> None:
        with ExitStack() as stack:  # runs the others where one fails too, whose error the webui then shows
            for action in reversed(actions):
                stack.callback(action)

    listen("before_ui", run)


def register() -> None:
    """Register the network, which the webui forgets while scripts are read, and its callbacks."""
    from modules import extra_networks

    from .lora import watch

    ours = network()
    listen("cfg_denoiser", lambda params: network().before_call(params))
    listen("model_loaded", _model_loaded)
    listen("script_unloaded", _unload)
    extra_networks.register_extra_network(ours)
    _find_files(ours.host)
    watch()


def _model_loaded(_model: Any) -> None:
    """Let a model go that the webui has put away; a plan for it is made anew by the run that changed it."""
    host = network().host
    if host.wanted is None:
        host.forget_model()


def refuse() -> None:
    """Have tags told of in a webui where networks cannot be put on the model; without us it would only drop them."""
    from modules import extra_networks

    extra_networks.register_extra_network(Refusal(host()))
    _find_files(host())


def _find_files(found: WebuiHost) -> None:
    """Look at the folders, and say on the console what was found."""
    found.find_files()
    print(summary(f"{found.name} {found.webui.version()}", len(found.library.files), found.folders()))


def _unload() -> None:
    network().host.clear()


def script() -> type[Any]:
    """Return the class of a script that is always there and shows nothing."""
    from modules import scripts

    class LycorisRun(scripts.Script):  # type: ignore[misc] # the webui's has no types
        def title(self) -> str:
            return "LyCORIS"

        def show(self, is_img2img: bool) -> Any:
            return scripts.AlwaysVisible

        def before_process(self, p: Any, *args: Any) -> None:
            """Start clean: a run that ended with an error, or that has networks switched off, says nothing to extra networks."""
            network().host.webui.load_back()
            network().host.pause()
            if getattr(p, "disable_extra_networks", False):
                network().conds.without_networks(p)

        def after_extra_networks_activate(self, p: Any, *args: Any, **kwargs: Any) -> None:
            """Complete the list of hashes after the webui's own loader has begun it."""
            merge_hashes(p)

        def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
            """End the run: without tags in the first prompt the webui does not call deactivate."""
            network().deactivate(p)

    return LycorisRun
