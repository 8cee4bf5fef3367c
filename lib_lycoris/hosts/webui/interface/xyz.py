"""Axes of the X/Y/Z plot. They write into the prompt's tags, so that the host's cache of encoded prompts sees the difference."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ....errors import LycorisError
from ....prompt import Presets, Schedule, Tag, TagError, escape_name, parse_tag, parse_weights_or_preset
from . import card_files as files

TAG = re.compile(r"<lyco:([^>]+)>")
NONE = "None"
SCRIPT = "xyz_grid.py"
TEXT = ("te", "te2", "hrte", "hrte2")
UNET = ("unet", "hrunet")
Edit = Callable[[Tag], Tag]


def add_axes() -> None:
    """Add our axes to the list of the host's script for plots, once that is loaded; a second time changes nothing."""
    from modules import scripts  # type: ignore[import-not-found,unused-ignore]

    for data in scripts.scripts_data:
        if data.script_class.__module__ != SCRIPT:
            continue
        known = {option.label for option in data.module.axis_options}
        data.module.axis_options.extend(option for option in _axes(data.module) if option.label not in known)


def _axes(plot: Any) -> list[Any]:
    """Return one option of the plot's own class an axis."""
    option = plot.AxisOption
    named = {"confirm": confirm_names, "cost": 0.5, "choices": lambda: [NONE, *files.library().names()]}
    preset = {"confirm": confirm_presets, "choices": lambda: [NONE, *presets().weight_names]}
    return [
        option("[LyCORIS] name", str, apply_name, **named),
        option("[LyCORIS] strength", float, _apply(lambda value: with_strength((*TEXT, *UNET), value))),
        option("[LyCORIS] te", float, _apply(lambda value: with_strength(TEXT, value))),
        option("[LyCORIS] unet", float, _apply(lambda value: with_strength(UNET, value))),
        option("[LyCORIS] block preset", str, _apply(with_weights), **preset),
    ]


def presets() -> Presets:
    """Return the presets that tags use here."""
    from ..host import host

    return host().presets()


def with_strength(places: Sequence[str], value: float) -> Edit:
    """Return the edit that sets these strengths; one that differs from the first of them keeps its own value."""
    strength = Schedule.constant(value)

    def edit(tag: Tag) -> Tag:
        leaders = {getattr(tag, place) for place in places if place in ("te", "unet")}
        changed: dict[str, Any] = {place: strength for place in places if getattr(tag, place) in leaders}
        return replace(tag, **changed)

    return edit


def with_weights(text: str) -> Edit:
    """Return the edit that sets the block weights: a preset's name, values, or None for none."""
    weights = None if text.strip() in (NONE, "") else parse_weights_or_preset(text.strip())
    return lambda tag: replace(tag, weights=weights)


def edited(prompt: str, edit: Edit) -> str:
    """Return the prompt with every `<lyco:` tag edited; a tag with a mistake stays, and is told of when it is used."""

    def change(match: re.Match[str]) -> str:
        try:
            return edit(parse_tag(match[1].split(":"))).format()
        except TagError:
            return match[0]

    return TAG.sub(change, prompt)


def with_name(prompt: str, name: str) -> str:
    """Return the prompt whose first `<lyco:` tag has this name; None takes it out, and a prompt without a tag gets one."""
    name = name.strip()
    name = escape_name(name) if any(mark in name for mark in ":<>") else name  # a name that is escaped already stays
    if name in (NONE, ""):
        return TAG.sub("", prompt, count=1)
    if not TAG.search(prompt):
        return f"{prompt}<lyco:{name}:1>"
    return TAG.sub(lambda tag: f"<lyco:{':'.join([name, *tag[1].split(':')[1:]])}>", prompt, count=1)


def apply_name(p: Any, name: str, _: Sequence[str]) -> None:
    """Set the network of one cell; strengths of the other axes that came before it are written into a new tag too."""
    _rewrite(p, lambda prompt: with_name(prompt, name))
    for edit in getattr(p, "lycoris_edits", ()):
        _rewrite(p, lambda prompt, edit=edit: edited(prompt, edit))  # type: ignore[misc]


def _apply(make: Callable[[Any], Edit]) -> Callable[[Any, Any, Sequence[Any]], None]:
    def apply(p: Any, value: Any, _: Sequence[Any]) -> None:
        edit = make(value)
        p.lycoris_edits = (*getattr(p, "lycoris_edits", ()), edit)  # a tag that another axis adds later gets it as well
        _rewrite(p, lambda prompt: edited(prompt, edit))

    return apply


def _rewrite(p: Any, change: Callable[[str], str]) -> None:
    """Change the prompt of both passes; an empty one of the second pass means that it is the first one's."""
    p.prompt = [change(text) for text in p.prompt] if isinstance(p.prompt, list) else change(p.prompt)
    if getattr(p, "hr_prompt", ""):
        p.hr_prompt = [change(text) for text in p.hr_prompt] if isinstance(p.hr_prompt, list) else change(p.hr_prompt)


def confirm_names(_: Any, names: Sequence[str]) -> None:
    """Raise before the first image if a name means no file."""
    for name in names:
        if name.strip() not in (NONE, ""):
            _say(lambda name=name: files.library().find(name))  # type: ignore[misc]


def confirm_presets(_: Any, texts: Sequence[str]) -> None:
    """Raise before the first image if a preset does not exist."""
    for text in texts:
        if text.strip() not in (NONE, ""):
            weights = _say(lambda text=text: parse_weights_or_preset(text.strip()))  # type: ignore[misc]
            if isinstance(weights, str):
                _say(lambda weights=weights: presets().weights(weights))  # type: ignore[misc]


def _say(check: Callable[[], Any]) -> Any:
    try:
        return check()
    except LycorisError as error:
        raise RuntimeError(str(error)) from error  # what the plot expects, and shows
