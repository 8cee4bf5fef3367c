"""Text -> Tag: the grammar of `<lyco:NAME[:te[:unet[:dyn-or-blocks]]][:key=value ...]>`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from ..errors import PromptError
from .elements import ElementRule, parse_rule
from .number import is_integer, is_number, parse_number, parse_whole
from .schedule import ONE, Schedule
from .tag import Tag, TagError
from .weights import is_weight_list, parse_weights_or_preset

_TAG = re.compile(r"<(\w+):([^>]+)>")  # what the webui takes for a tag
# What starts like a number is a strength, if a wrong one: a preset's name never does.
_STRENGTH = re.compile(r"[+-]?(\.?\d|(nan|inf|infinity)$)", re.IGNORECASE)
_STRENGTHS = {
    "te": "the strength of the text encoder",
    "te2": "the strength of the second text encoder",
    "unet": "the strength of the UNet",
    "hr": "the strength of the hires pass",
    "hrte": "the text encoder's strength in the hires pass",
    "hrte2": "the second text encoder's strength in the hires pass",
    "hrunet": "the UNet's strength in the hires pass",
}
_KEYS = (*_STRENGTHS, "dyn", "lbw", "w", "lbwe", "start", "stop", "step", "x")


def find_tags(prompt: str, names: Sequence[str] = ("lyco",)) -> tuple[str, list[Tag | TagError]]:
    """Return the prompt without the tags of these names, and each of them read, or the error that says why not."""
    found: list[Tag | TagError] = []

    def take(match: re.Match[str]) -> str:
        kind, inside = match.groups()
        if kind not in names:
            return match.group()
        try:
            found.append(parse_tag(inside.split(":"), kind))
        except TagError as error:
            found.append(error)
        return ""

    return _TAG.sub(take, prompt), found


def parse_tag(items: Sequence[str], kind: str = "lyco") -> Tag:
    """Read a tag from its text split at every `:`; raise TagError. The webui hands these over as `params.items`."""
    text = f"<{kind}:{':'.join(items)}>"
    positional = [item.strip() for item in items[:1]]
    named: dict[str, str] = {}
    rest = [item.strip() for item in items[1:]]
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        key, value = key.strip(), value.strip()
        if not equals:
            positional.append(key)
            continue
        if key in named:
            raise TagError(text, f'"{key}" is given twice; keep one')
        named[key] = _with_inline_rules(value, rest) if key == "lbwe" else value
    return parse_args(positional, named, text)


def parse_args(positional: Sequence[str], named: Mapping[str, str], text: str = "") -> Tag:
    """Read a tag from positional and named arguments; raise TagError.

    Prefer `parse_tag` where the split text is at hand: an inline `lbwe=BLOCKS:ELEMENTS:RATIO` cannot be told from
    positional arguments once the order between the two is lost. `text` is the tag as typed, for messages.
    """
    text = text or f"<lyco:{':'.join([*positional, *(f'{key}={value}' for key, value in named.items())])}>"
    try:
        return _build([piece.strip() for piece in positional], {k.strip(): v.strip() for k, v in named.items()}, text)
    except TagError:
        raise
    except PromptError as error:
        raise TagError(text, str(error)) from error


def _with_inline_rules(value: str, rest: list[str]) -> str:
    """Join to `BLOCKS` the `ELEMENTS` and `RATIO` that the split at `:` has cut off, rule after rule."""
    more = True
    while more and len(rest) >= 2:
        elements, ratio = rest[0], rest[1]
        number, comma, _ = ratio.partition(",")
        if is_number(elements) or "=" in elements or "=" in ratio or not is_number(number):
            break  # positional arguments after the name of a set
        value = f"{value}:{elements}:{ratio}"
        del rest[:2]
        more = bool(comma)
    return value


def _build(positional: Sequence[str], named: dict[str, str], text: str) -> Tag:
    if not positional or not positional[0]:
        raise PromptError("the name of the network is missing; write it right after the first colon")
    _check_keys(named)
    values = {**_by_position(positional[1:]), **named}
    strength = {key: Schedule.parse(values[key], what) for key, what in _STRENGTHS.items() if key in values}
    hires = strength.get("hr")
    start, stop = _window(values)
    return Tag.of(
        positional[0],
        strength.get("te", ONE),
        strength.get("unet"),
        strength.get("te2"),
        hrte=strength.get("hrte", hires),
        hrte2=strength.get("hrte2"),
        hrunet=strength.get("hrunet", hires),
        dyn=parse_whole(values["dyn"], "a number of ranks") if "dyn" in values else None,
        weights=parse_weights_or_preset(values["lbw"]) if "lbw" in values else None,
        elements=_elements(values["lbwe"]) if "lbwe" in values else None,
        start=start,
        stop=stop,
        x=parse_number(values["x"], "the value of x") if "x" in values else 1.0,
        text=text,
    )


def _check_keys(named: dict[str, str]) -> None:
    """Refuse keys that we do not know, or that say the same thing twice; turn `w` into `lbw`."""
    for key, value in named.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key.lower(), _KEYS, n=1, cutoff=0.5)
            hint = f'did you mean "{near[0]}"?' if near else f"the keys are {', '.join(_KEYS)}"
            raise PromptError(f'"{key}" is not a key; {hint}')
        if not value:
            raise PromptError(f'"{key}" has no value; give one after the "=" or leave the key out')
    for one, others in (("lbw", ("w",)), ("step", ("start", "stop"))):
        for other in others:
            if one in named and other in named:
                raise PromptError(f'"{one}" and "{other}" say the same thing; keep one')
    if "w" in named:
        named["lbw"] = named.pop("w")


def _by_position(pieces: Sequence[str]) -> dict[str, str]:
    """Give the positional arguments after the name their keys; what a key says wins over them later."""
    keys = ["te", "unet", "dyn", "lbwe"]
    if len(pieces) > 1 and _is_weights(pieces[1]):
        keys = ["te", "lbw", "lbwe"]  # as old prompts of the block weight extension have it
    elif len(pieces) > 2 and not is_integer(pieces[2]):
        keys[2] = "lbw"
    if len(pieces) > len(keys):
        raise PromptError(f'"{pieces[len(keys)]}" is one value too many after the name; name it with a key')
    for place, piece in enumerate(pieces, 1):
        if not piece:
            raise PromptError(f"value {place} after the name is empty; give one or leave out its colon")
    values = dict(zip(keys, pieces, strict=False))
    if is_number(values.get("lbwe", "")):
        values["x"] = values.pop("lbwe")
    return values


def _is_weights(piece: str) -> bool:
    """Say whether the second value is block weights: a list of a layout's length, or no strength at its start."""
    first = piece.partition(",")[0].strip()
    return is_weight_list(piece) or (bool(first) and not re.search("[@~;]", piece) and not _STRENGTH.match(first))


def _elements(text: str) -> str | tuple[ElementRule, ...]:
    return tuple(parse_rule(rule) for rule in text.split(",")) if ":" in text else text


def _window(values: Mapping[str, str]) -> tuple[int | None, int | None]:
    """Return the steps (start, stop) from `start`, `stop` or `step=A-B`."""
    start, stop = values.get("start"), values.get("stop")
    if "step" in values:
        start, dash, stop = values["step"].partition("-")
        if not dash:
            raise PromptError(f'"{values["step"]}" is not a span of steps; write step=FIRST-LAST, such as step=5-20')
    first = parse_whole(start, "a sampling step") if start is not None else None
    last = parse_whole(stop, "a sampling step") if stop is not None else None
    if first is not None and last is not None and first >= last:
        raise PromptError(f"on from step {first} and off from step {last} is never on; the second must be later")
    return first, last
