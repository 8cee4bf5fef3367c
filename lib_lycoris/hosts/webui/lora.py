"""The setting that has us handle <lora:...> too, in place of the webui's own loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .activation import network

OPTION = "lyco_take_over_lora"
KEY = "lib_lycoris"


def wanted() -> bool:
    """Tell whether the setting is on."""
    from modules import shared

    return bool(getattr(shared.opts, OPTION, False))


def watch() -> None:
    """Hook the look-up of tags now or when the setting is switched on; without it nothing is hooked."""
    from modules import shared

    if OPTION in getattr(shared.opts, "data_labels", {}):
        shared.opts.onchange(OPTION, _start, call=False)
    _start()


def _start() -> None:
    from modules import extra_networks, patches

    network().conds.forget = True  # the same tag has meant something else
    if wanted() and patches.original(KEY, extra_networks, "lookup_extra_networks") is None:
        original = extra_networks.lookup_extra_networks
        patches.patch(KEY, extra_networks, "lookup_extra_networks", _taking(original))


def _taking(original: Callable[..., Any]) -> Callable[..., Any]:
    def lookup_extra_networks(extra_network_data: Mapping[str, list[Any]]) -> Any:
        return original(_renamed(extra_network_data) if wanted() else extra_network_data)

    return lookup_extra_networks


def _renamed(data: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the tags with those of <lora:...> among ours; the webui's loader is then called with none."""
    found: dict[str, list[Any]] = {}
    for name, params_list in data.items():
        if name == "lora":
            for params in params_list:
                params.kind = "lora"  # for what is said about a tag
        found.setdefault("lyco" if name == "lora" else name, []).extend(params_list)
    return found
