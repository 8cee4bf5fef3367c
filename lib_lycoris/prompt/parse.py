"""Text -> Tag: the grammar of `<lyco:NAME[:te[:unet[:dyn-or-blocks]]][:key=value ...]>`."""

from __future__ import annotations

import difflib
import re
from collections import deque
from collections.abc import Mapping, Sequence

from ..errors import PromptError
from .elements import ElementRule, parse_rule
from .names import escape_name
from .number import Moment, decimal_comma, is_integer, is_number, parse_moment, parse_number, parse_whole, quoted
from .schedule import ONE, Schedule
from .tag import Tag, TagError, shown
from .weights import is_weight_list, parse_weights_or_preset

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
_KEYS = (*_STRENGTHS, "dyn", "lbw", "w", "lbwe", "start", "stop", "end", "step", "x")
_NUMBERS = (*_STRENGTHS, "start", "stop", "end", "step", "x")  # keys whose value can have a decimal comma, since no list has two values
_SAME = (("lbw", "w"), ("stop", "end"), ("step", "start"), ("step", "stop"), ("step", "end"))
_RENAMED = {"w": "lbw", "end": "stop"}


def parse_tag(items: Sequence[str], kind: str = "lyco") -> Tag:
    """Read a tag from its text split at every `:`; raise TagError. The webui hands these over as `params.items`."""
    text = f"<{kind}:{':'.join(items)}>"
    positional = [item.strip() for item in items[:1]]
    named: dict[str, str] = {}
    rest = deque(item.strip() for item in items[1:])
    while rest:
        key, equals, value = rest.popleft().partition("=")
        key, value = key.strip(), value.strip()
        if not equals:
            positional.append(key)
            continue
        if key in named:
            raise TagError(text, f"{quoted(key)} is given twice; keep one")
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


def _with_inline_rules(value: str, rest: deque[str]) -> str:
    """Join to `BLOCKS` the `ELEMENTS` and `RATIO` that the split at `:` has cut off, rule after rule."""
    pieces = [value]
    more = True
    while more and len(rest) >= 2:
        elements, ratio = rest[0], rest[1]
        number, comma, _ = ratio.partition(",")
        if is_number(elements) or "=" in elements or "=" in ratio or not is_number(number):
            break  # positional arguments after the name of a set
        pieces += [rest.popleft(), rest.popleft()]
        more = bool(comma)
    return ":".join(pieces)


def _build(positional: Sequence[str], named: dict[str, str], text: str) -> Tag:
    if not positional or not positional[0]:
        raise PromptError("the name of the network is missing; write it right after the first colon")
    _check_keys(named)
    values = {**_by_position(positional[1:]), **named}
    notes = [*_decimals(values, named), *_switched_off(named, values)]
    if len(positional) > 1 and values.get("te") == positional[1]:
        _check_name(positional[0], positional[1])
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
        notes=tuple(f"{shown(text)}: {note}" for note in notes),
    )


def _check_name(name: str, strength: str) -> None:
    """Refuse what follows the name's colon and is nothing like a strength, but may be the rest of a name with a colon."""
    if not _STRENGTH.match(strength):
        whole = escape_name(f"{name}:{strength}")
        raise PromptError(
            f"{quoted(strength)} is not {_STRENGTHS['te']}; give a number such as 0.7, or, where the name has a colon, write {whole}"
        )


def _check_keys(named: dict[str, str]) -> None:
    """Refuse keys that we do not know, or that say the same thing twice; turn `w` into `lbw` and `end` into `stop`."""
    for key, value in named.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key[:20].lower(), _KEYS, n=1, cutoff=0.5)
            hint = f'did you mean "{near[0]}"?' if near else f"the keys are {', '.join(_KEYS)}"
            raise PromptError(f"{quoted(key)} is not a key; {hint}")
        if not value:
            raise PromptError(f'"{key}" has no value; give one after the "=" or leave the key out')
    for one, other in _SAME:
        if one in named and other in named:
            raise PromptError(f'"{one}" and "{other}" say the same thing; keep one')
    for alias in _RENAMED.keys() & named.keys():
        named[_RENAMED[alias]] = named.pop(alias)


def _by_position(pieces: Sequence[str]) -> dict[str, str]:
    """Give the positional arguments after the name their keys; what a key says wins over them later."""
    keys = ["te", "unet", "dyn", "lbwe"]
    if len(pieces) > 1 and _is_weights(pieces[1]):
        keys = ["te", "lbw", "lbwe"]  # as old prompts of the block weight extension have it
    elif len(pieces) > 2 and not is_integer(pieces[2]):
        keys[2] = "lbw"
    if len(pieces) > len(keys):
        raise PromptError(f"{quoted(pieces[len(keys)])} is one value too many after the name; name it with a key")
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


def _decimals(values: dict[str, str], named: Mapping[str, str]) -> list[str]:
    """Read `0,7` as 0.7 where no list of two can be meant, in place; return a sentence for each. named: those that stand with their key."""
    notes = []
    for key in _NUMBERS:
        typed = values.get(key, "")
        pieces = [decimal_comma(piece) or piece for piece in (typed.split("-") if key == "step" else [typed])]
        if typed and "-".join(pieces) != typed:
            values[key] = "-".join(pieces)
            notes.append(f"{f'{key}={typed}' if key in named else typed} was read as {values[key]}; write numbers with a point")
    return notes


def _switched_off(named: Mapping[str, str], values: Mapping[str, str]) -> list[str]:
    """Say that `te=0` alone turns the UNet off too, as the built-in loader reads it; who writes it mostly means the text encoder."""
    off = "te" in named and "unet" not in values and is_number(named["te"]) and float(named["te"]) == 0
    return ["te=0 also turns the UNet off, as in the built-in loader; write te=0:unet=1 to turn only the text encoder off"] if off else []


def _window(values: Mapping[str, str]) -> tuple[Moment | None, Moment | None]:
    """Return the moments (start, stop) from `start`, `stop` or `step=A-B`."""
    start, stop = values.get("start"), values.get("stop")
    if "step" in values:
        start, dash, stop = values["step"].partition("-")
        if not dash:
            raise PromptError(f"{quoted(values['step'])} is not a span of steps; write step=FIRST-LAST, such as step=5-20 or step=0.2-0.8")
    first = parse_moment(start, "a sampling step") if start is not None else None
    last = _end(stop, first) if stop is not None else None
    if first is not None and last is not None and (0 < first < 1) == (0 < last < 1) and first >= last:
        raise PromptError(f"on from step {first:g} and off from step {last:g} is never on; the second must be later")
    return first, last


def _end(text: str, first: Moment | None) -> Moment | None:
    """Read the moment of the end; None, the last step and no earlier one, for `1.0`, and for 1 after a fraction."""
    last = parse_moment(text, "a sampling step")
    whole = last == 1 and ("." in text or (first is not None and 0 < first < 1))
    return None if whole else last
