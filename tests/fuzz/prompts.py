"""Hostile prompts and files of presets: read, planned, resolved and written again as a host does it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from lib_lycoris.errors import PromptError
from lib_lycoris.models.families import FAMILIES
from lib_lycoris.prompt import (
    OwnPresets,
    Presets,
    Tag,
    TagError,
    find_tags,
    near_misses,
    parse_args,
    parse_tag,
    parse_weights_or_preset,
    plan_negative,
    plan_prompt,
    resolve,
    text_spans,
)  # fmt: skip

from .judge import Unclean, check_sentence
from .values import odd_number, odd_text

PIECES = (
    "<lyco:", "<lora:", "<lyco:a:", ">", ":", "::", "=", ",", ";", "@", "~", "[", "]", "(", ")", "|",
    "\\", "AND", " AND ", "BREAK", "a cat", "0.7",
    "1", "-1", "1e5", ".", "-", "te=", "te2=", "unet=", "hr=", "hrte=", "hrunet=", "dyn=", "lbw=", "w=", "lbwe=", "start=", "stop=", "end=",
    "step=", "x=", "0@0,1@0.5", "1~3;2~9", "R", "U", "X", "X+0.2", "NOT", "IN05-OUT05", "OUT05-IN05", "MID", "attn", "ALL", "NONE", "XYZ",
    "SDXL-STYLE", "0.4", "5-20", "0.2-0.8", "20-5", ",".join(["1"] * 12), ",".join(["R"] * 17), ",".join(["X"] * 26), "IN05:attn:0", ":::",
    "{a|b}", "0,7", "1,1", "+", "\n", "\t", "é", "<", "<<", ">>", "lyco", "<LYCO:a>", "< lyco:a:1>", "<lyco:a:1", "<lyco:>",
)  # fmt: skip
TAGS = (
    "<lyco:a:0.7>", "<lyco:a:te=0:unet=1>", "<lyco:a:1:1:4>", "<lyco:a:1:lbw=ALL:lbwe=ATTNDEEPON>", "<lyco:a:1:step=0.2-0.8>",
    "<lyco:a:0@0,1@0.5:hr=0.5>", "[<lyco:a:1>:<lyco:b:1>:0.5]", "[<lyco:a>|<lyco:b>]", "[cat:<lyco:a:1>:8]", "<lyco:a:1:lbwe=IN05:attn:0>",
    "<lyco:a:1:start=3:stop=0.9:x=2>", "(<lyco:a:1>:1.2) AND dog :0.7", "<lyco:a:1:1,1,1,1,1,1,1,1,1,1,1,1>",
)  # fmt: skip
FAMILY_IDS = tuple(FAMILIES)
WEIGHTS = "ALL:" + ",".join(["1"] * 17) + "\nMINE:" + ",".join(["R", "U", "X", "X-1", *["0.5"] * 8]) + "\n#no\n"
ELEMENTS = "ATTN:IN05-OUT05:attn:1\n\nTWO:IN05:attn:1,OUT05:NOT ff:0\nMID::0.5\n"


def odd_prompt(rng: random.Random) -> str:
    """Return a prompt made of what tags are made of."""
    kind = rng.randrange(6)
    if kind == 0:
        return "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 30)))
    if kind == 1:
        return rng.choice((*PIECES, *TAGS)) * rng.choice((1, 50, 3000))
    text = " ".join(rng.choice(TAGS) for _ in range(rng.randrange(1, 4)))
    for _ in range(rng.randrange(1, 5)):
        text = _mutated(text, rng)
    return text


def _mutated(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    stop = min(len(text), start + rng.randrange(8))
    number = str(odd_number(rng)) if rng.random() < 0.3 else ""
    middle = number or rng.choice((rng.choice(PIECES), odd_text(rng), text[start:stop] * rng.choice((0, 2, 40))))
    return text[:start] + middle + text[stop:]


def odd_presets(text: str, rng: random.Random) -> str:
    """Return the text of a file of presets that somebody damaged."""
    for _ in range(rng.randrange(5)):
        text = _mutated(text, rng)
    return text


def prompt(rng: random.Random, folder: Path) -> None:
    """Read a prompt that somebody damaged."""
    text, steps = odd_prompt(rng), rng.choice((1, 2, 20, 150))
    use_prompt(text, Presets(odd_presets(WEIGHTS, rng), odd_presets(ELEMENTS, rng)), rng, steps)


def use_prompt(text: str, presets: Presets, rng: random.Random, steps: int) -> None:
    """Read a prompt as the app and the webui do, and use every tag of it. Raises PromptError where every tag is refused."""
    planned = plan_prompt(text, ("lyco",), steps, rng.choice((0, 0, steps)))
    plan_negative(text, steps)
    rest, tags = find_tags(text, ("lyco", "lora"))
    for miss in near_misses(rest, ("lyco",), ("lora",)):
        check_sentence(miss.sentence)
    said = [_used(tag, presets, rng, steps) for tag in (*planned.tags, *tags)[:50]]
    for step in range(steps):
        planned.on(step)
    if said and all(said):
        raise PromptError(str(next(filter(None, said))))


def _used(tag: Tag | TagError, presets: Presets, rng: random.Random, steps: int) -> TagError | None:
    """Resolve one tag and ask it for strengths; return what it says against that."""
    if isinstance(tag, TagError):
        check_sentence(str(tag))
        return tag
    for note in tag.notes:
        check_sentence(note)
    try:
        strengths = resolve(tag, rng.choice(FAMILY_IDS), rng.randrange(-1, 2**33), presets, rng.random() < 0.3)
    except TagError as error:
        check_sentence(str(error))
        return error
    for note in strengths.notes:
        check_sentence(note)
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    values = [strengths.at(name, step, steps) for step in range(steps)]
    if any(not abs(value) < 1e12 for value in values):
        raise Unclean(f"a strength of {values}")
    text_spans([strengths], steps)
    _ = strengths.digest
    _written_again(tag)
    return None


def _written_again(tag: Tag) -> None:
    if tag.during is not None or any(sign in tag.name for sign in ":<>=") or tag.name != tag.name.strip():
        return
    text = tag.format()
    again = parse_tag(text[1:-1].split(":")[1:])
    if again != tag:
        raise Unclean(f"{tag.text!r} is written as {text!r}, which means another thing")


def arguments(rng: random.Random, folder: Path) -> None:
    """Read a tag that came split at its colons, as the webui hands it over."""
    texts = [*PIECES, *(str(odd_number(rng)) for _ in range(3)), odd_text(rng)]
    positional = [rng.choice(texts) for _ in range(rng.randrange(6))]
    named = {rng.choice((*texts, "te", "unet", "lbw", "start", "stop", "dyn", "lbwe")): rng.choice(texts) for _ in range(rng.randrange(5))}
    made: Callable[[], Tag] = rng.choice((lambda: parse_args(positional, named), lambda: parse_tag([*positional, *named.values()])))
    said = _used(made(), Presets.default(), rng, 20)
    if said:
        raise said


def presets_file(rng: random.Random, folder: Path) -> None:
    """Read files of presets, ask for every name in them, save and delete one."""
    for name, text in (("weights.txt", WEIGHTS), ("elements.txt", ELEMENTS)):
        raw = odd_presets(text, rng).encode("utf-8", "surrogatepass") if rng.random() < 0.9 else rng.randbytes(rng.randrange(2000))
        (folder / name).write_bytes(raw)
    found = Presets.load(folder / "weights.txt", folder / "elements.txt")
    said: list[PromptError] = []
    for ask, names in ((found.weights, found.weight_names), (found.elements, found.element_names)):
        for name in (*names, odd_text(rng)):
            try:
                ask(name)
            except PromptError as error:
                check_sentence(str(error))
                said.append(error)
    name = odd_text(rng)
    (folder / "own").mkdir()
    own = OwnPresets(folder / "own")
    weights = parse_weights_or_preset(",".join(["1"] * 12))
    if isinstance(weights, str):
        raise Unclean("a list of weights is read as a name")
    own.save(name, weights)
    if found.joined(own.text()).weights(name.strip()) != weights:
        raise Unclean(f"the preset {name!r} is saved and another one is read")
    own.delete(name)
    if own.names():
        raise Unclean(f"the preset {name!r} stays when it is deleted")


TARGETS = (prompt, prompt, prompt, arguments, presets_file)
