"""The prompts of a batch as people wrote them: what in them only looks like a tag, and tags that act on other images than theirs."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...prompt import Tag, find_tags, near_misses, plan_prompt
from ...prompt.scan import places

NAMES = ("lyco",)


def written(p: Any, hires: bool) -> list[str]:
    """Return the prompts of the batch that is being made, with their tags; none for a run that the webui makes for itself."""
    texts = getattr(p, "all_hr_prompts" if hires else "all_prompts", None) or []
    size, first = int(getattr(p, "batch_size", 1) or 1), int(getattr(p, "iteration", 0) or 0)
    return [str(text) for text in texts[first * size : (first + 1) * size]]


def about_near_misses(prompts: Sequence[str]) -> list[str]:
    """Return a sentence for each piece of the prompts that was probably meant as a tag of ours; other kinds are other programs'."""
    found = []
    for prompt in dict.fromkeys(prompts):
        rest, _ = find_tags(prompt, NAMES)
        others = [place.kind for place in places(rest) if not difflib.get_close_matches(place.kind.lower()[:20], NAMES, 1)]
        found += [miss.sentence for miss in near_misses(rest, NAMES, others)]
    return list(dict.fromkeys(found))


def tags_of(prompt: str) -> list[str]:
    """Return the tags of a prompt as they are written, sorted: their order never matters."""
    return sorted(prompt[place.start : place.stop] for place in places(prompt) if place.kind in NAMES)


def of_other_images(prompts: Sequence[str]) -> list[int]:
    """Return the numbers, from 1, of a batch's images whose prompts ask for other networks than the first one's, which act on all."""
    return [number for number, prompt in enumerate(prompts, 1) if tags_of(prompt) != tags_of(prompts[0])]


def about_batch(prompts: Sequence[str]) -> str | None:
    """Say that images of a batch do not get their own networks; None where all ask for the same."""
    others = of_other_images(prompts)
    if not others:
        return None
    used = "".join(tags_of(prompts[0])) or "no networks"
    which = f"image {others[0]} asks" if len(others) == 1 else f"images {', '.join(map(str, others))} ask"
    return f"{which} for other networks, but a batch is computed at once: all have {used}; set the batch size to 1 for one by one"


def about_regions(p: Any) -> str | None:
    """Say that networks act on the whole image where Regional Prompter would give each its region; None elsewhere."""
    facts = getattr(p, "extra_generation_params", {})
    if not facts.get("RP Active") or facts.get("RP Calc Mode") != "Latent":
        return None
    return (
        "Regional Prompter's Latent mode keeps networks of the built-in loader to their regions, and no others: those applied here "
        'act on the whole image; write <lora:...> for a region\'s own, with the setting "Apply <lora:...> tags too" off'
    )


def pass_steps(p: Any, hires: bool) -> tuple[int, int]:
    """Return the steps of a pass, and how many model calls its sampler makes in one, in which the webui counts prompt editing."""
    from modules import sd_samplers

    steps = int((getattr(p, "hr_second_pass_steps", 0) if hires else 0) or getattr(p, "steps", 1) or 1)
    name = (getattr(p, "hr_sampler_name", None) if hires else None) or getattr(p, "sampler_name", None)
    config = sd_samplers.find_sampler_config(name) if name else None
    return steps, max(int(config.total_steps(steps)) // steps, 1) if config is not None else 1


def with_brackets(tags: Sequence[Tag], prompts: Sequence[str], steps: int, multiplier: int, earlier: int) -> tuple[Tag, ...]:
    """Return tags with the steps at which prompt editing around them has them on.

    The webui hands tags over without their place in the prompt; a tag that another extension has put in is always on.

    Args:
        prompts: of the batch, as they are written; the first one's networks are used.
        earlier: the steps of the pass before this one, 0 for none.
    """
    kinds = sorted({tag.text[1:].partition(":")[0] for tag in tags})  # <lora:...> too, where the settings say so
    planned = plan_prompt(prompts[0], kinds, steps * multiplier, earlier * multiplier).tags if prompts else ()
    places: dict[str, list[Tag]] = defaultdict(list)
    for tag in planned:
        if isinstance(tag, Tag):
            places[tag.text].append(tag)
    found = []
    for tag in tags:
        edited = places[tag.text].pop(0) if places[tag.text] else tag
        during = None if edited.during is None else edited.during[::multiplier]
        found.append(replace(tag, during=during, notes=edited.notes))
    return tuple(found)
