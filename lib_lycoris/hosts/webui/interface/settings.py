"""The section "LyCORIS" of the webui's settings; the original extension's keys keep their meaning, new ones begin with `lyco_` too."""

from __future__ import annotations

import sys
from typing import Any, get_args

from modules import shared  # type: ignore[import-not-found,unused-ignore]
from pydantic import Field, create_model

from ....patching import MERGED_BYTES, Mode
from ...library.cache import KEPT_MIB
from . import card_files as files

gr = shared.gr  # the gradio that the host itself draws with
SECTION = ("lycoris", "LyCORIS", "sd")


def register() -> None:
    """Add the settings; they have their values from config.json as soon as this has run."""
    added = shared.options_section(SECTION, {**_applying(), **_cards(), **_infotext()})
    shared.options_templates.update(added)
    _tell_api(added)


def _tell_api(added: dict[str, Any]) -> None:
    """Add settings to those that the webui's API tells, where it knows these already.

    It lists them once, when the first extension imports the API; in the Forges, and wherever ControlNet is, that comes before us.
    """
    models: Any = sys.modules.get("modules.api.models")
    if models is not None:
        fields: dict[str, Any] = {key: (Any, Field(default=option.default, description=option.label)) for key, option in added.items()}
        models.OptionsModel = create_model("Options", __base__=models.OptionsModel, **fields)


def _applying() -> dict[str, Any]:
    option = shared.OptionInfo
    # an old config.json may still ask for the functional way under the key of the original extension
    mode = "functional" if shared.opts.data.get("lyco_functional") else "auto"
    return {
        "lyco_take_over_lora": option(False, "Apply <lora:...> tags too").info(
            "one loader for both kinds of tags; off: those stay with the built-in Lora extension"
        ),
        "lyco_mode": option(mode, "How networks are applied", gr.Radio, {"choices": list(get_args(Mode))}).info(
            "auto: the fastest for each layer; functional: computed beside each layer, no wait and no copy of a weight; merged: changed "
            "weights are computed once and kept beside the model's, fast steps for twice the memory; recompute: changed weights are "
            "computed at each step and kept nowhere"
        ),
        "lyco_other_family": option(False, "Apply networks of other base models to the layers that fit").info(
            "such as networks of Flux on Chroma, or of SD1 on another UNet: a sentence below the image says how many layers are applied; "
            "off: a network of another base model is refused"
        ),
        "lyco_merged_mib": option(
            -1, "Memory for changed weights that auto keeps, in MiB", gr.Number, {"precision": 0, "minimum": -1}
        ).info(f"on the device that computes; 0: none; -1: a quarter of what is free on a GPU, {MERGED_BYTES >> 20} on a CPU"),
        "lyco_cache_mib": option(
            KEPT_MIB, "Memory for networks that the last prompt did not use, in MiB", gr.Number, {"precision": 0, "minimum": 0}
        ).info("so that a tag that comes back need not read its file again; those used longest ago go first; 0: none"),
        "lyco_in_memory_limit": option(
            0, "Number of networks to keep in memory, whatever their size", gr.Number, {"precision": 0, "minimum": 0}
        ).info("beside those that the last prompt used, which always stay, and those within the limit above"),
    }  # fmt: skip


def _cards() -> dict[str, Any]:
    option, versions = shared.OptionInfo, list(dict.fromkeys(files.VERSIONS.values()))
    return {
        "lyco_preferred_name": option(
            "Filename", "Name that a click on a card writes into the prompt", gr.Radio, {"choices": ["Filename", "Alias from file"]}
        ).info("the alias is the name that the trainer wrote into the file"),
        "lyco_show_all": option(False, "Always show all networks").info("otherwise only those for the loaded checkpoint's kind of model"),
        "lyco_hide_unknown_for_versions": option(
            [], "Hide networks of unknown kind when the checkpoint is", gr.CheckboxGroup, {"choices": versions}
        ).info("a network's kind is told from its layers; it can be set in the form behind its card"),
    }


def _infotext() -> dict[str, Any]:
    return {
        "lyco_add_hashes_to_infotext": shared.OptionInfo(True, "Write the hashes of networks into the image's text").info(
            "so that sites know them, and a pasted text finds a renamed file"
        ),
        "lyco_problems_in_infotext": shared.OptionInfo(False, "Write what could not be done into the image's text").info(
            "it is shown below the image and returned by the API in any case"
        ),
    }
