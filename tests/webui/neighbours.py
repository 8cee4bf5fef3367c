"""Other people's extensions that are tried beside this one: how a checkout of each is recognised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

MARKS: Mapping[str, str] = {  # name -> a file that only this one has
    "lora-block-weight": "scripts/lora_block_weight.py",
    "Regional Prompter": "scripts/rp.py",
    "ControlNet": "scripts/controlnet.py",
    "Tiled Diffusion": "scripts/tilediffusion.py",
    "ADetailer": "scripts/!adetailer.py",
    "SuperMerger": "scripts/supermerger.py",
    "dynamic-prompts": "scripts/dynamic_prompting.py",
}

SETTINGS: Mapping[str, object] = {  # of dynamic-prompts, which adds them too late for a webui that starts for the first time
    "dp_ignore_whitespace": False, "dp_write_raw_template": False, "dp_write_prompts_to_file": False, "dp_limit_jinja_prompts": False,
    "dp_parser_variant_start": "{", "dp_parser_variant_end": "}", "dp_parser_wildcard_wrap": "__", "dp_auto_purge_cache": False,
    "dp_wildcard_manager_no_dedupe": False, "dp_wildcard_manager_no_sort": False, "dp_wildcard_manager_shuffle": False,
    "dp_magicprompt_default_model": "", "dp_magicprompt_batch_size": 1,
}  # fmt: skip


def find(folder: Path) -> dict[str, Path]:
    """Return name -> checkout of those that lie in a folder."""
    places = sorted(place for place in folder.iterdir() if place.is_dir())
    return {name: place for name, mark in MARKS.items() for place in places if (place / mark).is_file()}
