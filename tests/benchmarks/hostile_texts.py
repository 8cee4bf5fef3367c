"""Small hostile texts beside networks and in requests: prompts, presets, recipes, undo files, notes, tables of ranks, bodies."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lib_lycoris.errors import LycorisError, PromptError
from lib_lycoris.hosts.jobs_api import ADDRESS
from lib_lycoris.hosts.library import model_hash
from lib_lycoris.hosts.library.cards import LibraryCards
from lib_lycoris.hosts.library.index import NAME
from lib_lycoris.hosts.library.library import Library
from lib_lycoris.hosts.webui.interface import card_files, paste
from lib_lycoris.plain_json import parse_json
from lib_lycoris.prompt import Presets
from lib_lycoris.tools import TOOLS
from lib_lycoris.ui.settings import Settings
from tests.fuzz import notes, prompts, requests
from tests.fuzz.options import run_command
from tests.tools.hostile_undo import MANIFESTS, changed_undo

from .hostile_surface import DEEP, DIGITS, Make, Surface

LONG = 48_000  # characters of a prompt
TEXTS: dict[str, str] = {  # that no JSON of strangers may be, and that a table may hold
    "deep": DEEP, "deep tables": '{"a":' * 100_000, "16,000 digits": DIGITS, "1 MB of digits": "9" * 900_000,
    "a list": json.dumps(list(range(100_000))), "a text": json.dumps("x" * 900_000),
    "a table": json.dumps({f"a{n}": n for n in range(60_000)}),
    "empty tables": "[" + "{}," * 200_000 + "{}]", "nothing": "", "no text": "\x00" * 900_000,
}  # fmt: skip
PIECES: dict[str, str] = {
    **{f"{piece!r} again and again": piece * (LONG // len(piece)) for piece in dict.fromkeys((*prompts.PIECES, *prompts.TAGS))},
    "a strength of 16,000 digits": f"<lyco:a:{DIGITS}>", "a step of 16,000 digits": f"<lyco:a:1:step={DIGITS}-{DIGITS}>",
    "a schedule of 16,000 digits": f"<lyco:a:1@{DIGITS}>", "editing at 16,000 digits": f"[a:<lyco:a:1>:{DIGITS}]",
    "a long schedule": f"<lyco:a:0@0{',1@0.5' * (LONG // 6)}>", "ranges": f"<lyco:a:{';'.join(['1~3'] * (LONG // 4))}>",
    "long block weights": f"<lyco:a:1:{','.join(['1'] * (LONG // 2))}>",
    "long rules": f"<lyco:a:1:lbwe={','.join(['IN05:attn:0'] * 4_000)}>",
    "blocks": f"<lyco:a:1:lbwe={' '.join(['IN00-OUT11'] * 4_000)}:attn:0>", "a long name": f"<lyco:{'a' * LONG}:1>",
    "a long preset": f"<lyco:a:1:lbw={'XY' * (LONG // 2)}>", "nested editing": "[a:" * (LONG // 7) + "<lyco:a:1>" + ":0.5]" * (LONG // 7),
    "nested brackets": "(" * (LONG // 2) + "<lyco:a:1>" + ")" * (LONG // 2), "alternating": "[" + "|".join(["<lyco:a>"] * 4_000) + "]",
    "parts": " AND ".join(["<lyco:a:1> x :0.5"] * 2_000), "near misses": "<lyc:a:1> <lcyo:a:1> < lyco:a> " * 1_500,
    "exponents": "<lyco:a:1e999999999> <lyco:b:1e-999999999>" * 1_000, "options": f"<lyco:a:1:{':'.join(['x=1'] * 10_000)}>",
}  # fmt: skip
PRESET_TEXTS: dict[str, str] = {
    "many presets": "\n".join(f"P{n}:" + ",".join(["0"] * 12) for n in range(27_000)),
    "many sets": "\n\n".join(f"E{n}:IN05:attn:1" for n in range(45_000)), "one long line": "A:" + "1," * 450_000,
    "a long set": "A:" + "IN05:attn:1," * 70_000, "a range of all": "A:" + "IN00-OUT11 " * 70_000 + ":attn:1",
    "16,000 digits": f"A:{DIGITS}" + ",1" * 16 + f"\nB:IN05:attn:{DIGITS}", "colons": ":" * 900_000, "lines": "\n" * 900_000,
    "a long name": "A" * 900_000 + ":" + ",".join(["1"] * 17),
}  # fmt: skip
RANK_TABLES: dict[str, Any] = {
    "patterns": {f"(a|b)*{n}" : 1 for n in range(40_000)}, "names": {f"a.b.{n}": 1 for n in range(40_000)},
    "one long pattern": {"(a*)*" * 180_000: 1}, "long patterns": {"(a|b|.)*" * 60 + str(n): 1 for n in range(1_800)},
}  # fmt: skip


def text_file(name: str, text: str) -> Make:
    """Return what writes a text into a file."""
    return lambda folder: (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))


def use_prompt(folder: Path) -> None:
    """Read a prompt as the app and the webui do, and use its tags."""
    prompts.use_prompt((folder / "prompt.txt").read_text("utf-8"), Presets.default(), random.Random(0), 20)


def use_infotext(folder: Path) -> None:
    """Read the prompt as if it were the hashes and the prompt of somebody's image."""
    text = (folder / "prompt.txt").read_text("utf-8")
    paste.renamed(text, paste.read_hashes({"Lyco hashes": text, "Lora hashes": text.replace(":", ": 0123abcd,")}), {"0123abcd": "here"}.get)


def use_presets(folder: Path) -> None:
    """Read files of presets, and ask for the first, the last and one that is not there."""
    found = Presets.load(folder / "weights.txt", folder / "elements.txt")
    said = None
    for ask, names in ((found.weights, found.own_names), (found.elements, found.element_names)):
        for name in (*names[:1], *names[-1:], "P1x"):
            try:
                ask(name)
            except PromptError as error:
                said = error
    if said:
        raise said


def use_card(folder: Path) -> None:
    """Show a network's card with what `one.json` says of it, in the app's library and in the webui's way."""
    cards = LibraryCards(lambda: Library([folder]))
    cards.cards()
    try:
        said = card_files.showable(parse_json((folder / "one.json").read_text("utf-8")))
    except ValueError:  # the webui reads this file, and gives nothing for one that is none
        return
    card_files.weight(said.get("preferred weight") if isinstance(said, dict) else said)


def use_library(folder: Path) -> None:
    """Start with an index of the library."""
    library = Library([folder], folder / "data")
    library.scan()
    library.wait()


def use_kept(folder: Path) -> None:
    """Read the kept fields of pages and the kept hashes of models."""
    Settings(folder / "pages.json").keep("merge", "name", "new")
    model_hash.model_file_hash(folder / "base.safetensors", folder)


def post(folder: Path) -> None:
    """Send the body to a tool's route, and wait for the job if it starts one."""
    headers = [(b"host", requests.HOST), (b"content-type", b"application/json")]
    body = (folder / "body.json").read_bytes()
    with requests.application(folder) as (app, jobs):
        status, _, text = requests.call(app, "POST", f"{ADDRESS}/merge".encode(), b"", headers, [body])
        if status >= 500:
            raise RuntimeError(f"{status}: {text[:200]!r}")
        for job in jobs.all():
            job.wait(60)
            status, text = (400, job.error.encode()) if job.error else (status, text)
    if status >= 400:
        raise LycorisError(text.decode("utf-8", "replace")[:1000])


def bodies() -> dict[str, Make]:
    """Return bodies of requests: texts alone, and as each option of a merge."""
    usual = {"sd_model": "base.safetensors", "models": ["one"], "save_to": "x"}
    made = {name: text_file("body.json", text) for name, text in TEXTS.items()}
    numbers, names = json.dumps([1] * 200_000), json.dumps(["one"] * 5_000)
    values = {"16,000 digits": DIGITS, "a list": names, "numbers": numbers, "a text": TEXTS["a text"]}
    for option in (*usual, "ratios", "blocks", "other"):
        for name, value in values.items():
            table = json.dumps({**{key: one for key, one in usual.items() if key != option}, option: "%"}).replace('"%"', value)
            made[f"{option}, {name}"] = text_file("body.json", table)
    return made


def recipes() -> dict[str, Make]:
    """Return recipes: texts alone, many jobs, and odd values in one."""
    usual = {"model": "one.safetensors", "new_rank": 1, "save_to": "out.safetensors"}
    texts = {
        "many jobs": json.dumps([usual] * 2_000, separators=(",", ":")),
        "files that are not there": json.dumps([{**usual, "model": f"x{n}"} for n in range(9_000)], separators=(",", ":")),
        "a number of 16,000 digits": json.dumps({**usual, "new_rank": "%"}).replace('"%"', DIGITS),
        "many options": json.dumps({**usual, **{f"x{n}": n for n in range(40_000)}}),
        "a long option": json.dumps({**usual, "x" * 900_000: 1}),
        "a long name": json.dumps({**usual, "model": "x" * 900_000}), "a list of files": json.dumps({**usual, "model": ["x"] * 100_000}),
    }  # fmt: skip
    return {name: text_file("recipe.json", text) for name, text in (TEXTS | texts).items()}


def undo_files() -> dict[str, Make]:
    """Return undo files that no merge wrote."""
    made: dict[str, Make] = {f"manifest {n}": partial(_changed, change) for n, change in enumerate(MANIFESTS)}
    for part in ("0/header", "0/0.0"):
        made[f"{part} of 300 MB"] = lambda folder, part=part: changed_undo(
            folder, lambda m: None, lambda name, old: bytes(3 * 10**8) if name == part else old)  # fmt: skip
    for name in ("deep", "deep tables", "1 MB of digits", "a table"):
        made[f"manifest, {name}"] = partial(_changed, lambda m, name=name: TEXTS[name].encode())
    return made | {
        "many files": partial(_changed, lambda m: m.update(files=m["files"] * 2_000)),
        "many tensors": partial(_changed, _many_tensors), "places of 10 GB": partial(_changed, _far_places), "many members": _many_members,
    }  # fmt: skip


def _many_tensors(manifest: dict[str, Any]) -> None:
    manifest["files"][0]["tensors"].update({f"a{n}": {"number": n, "xor": True} for n in range(90_000)})


def _far_places(manifest: dict[str, Any]) -> None:
    for place in manifest["files"][0]["places"].values():
        place[1] = 10**10


def _changed(change: Callable[[dict[str, Any]], Any], folder: Path) -> None:
    changed_undo(folder, change)


def _many_members(folder: Path) -> None:
    with zipfile.ZipFile(folder / "x.undo", "w") as new:
        for number in range(8_000):
            new.writestr(str(number), b"")


def indexes() -> dict[str, Make]:
    """Return indexes of a library whose lines are others."""

    def write(folder: Path, number: int, text: str) -> None:
        place = next((folder / "data").rglob(NAME))
        lines = place.read_text("ascii").split("\n")
        lines[number] = text
        place.write_text("\n".join(lines), "ascii")

    rows = json.dumps({f"/a/{n}": [1, 1, "", "", True] for n in range(25_000)}, separators=(",", ":"))
    made = {f"line {n}, {name}": partial(write, number=n, text=text) for n in range(3) for name, text in TEXTS.items() if name != "no text"}
    return {**made, "25,000 rows": partial(write, number=1, text=rows)}


def use_undo(folder: Path) -> None:
    """Take a merge back."""
    undo = next(path for name in ("x.undo", "merged.undo") if (path := folder / name).exists())
    TOOLS["undo"].run(merged=folder / "merged.safetensors", undo_file=undo, save_to=folder / "out.safetensors")


def use_ranks(folder: Path) -> None:
    """Resize with a table of ranks."""
    out = folder / "out.safetensors"
    TOOLS["resize"].run(model=folder / "one.safetensors", new_rank=2, module_ranks=folder / "ranks.json", save_to=out)


def nothing(folder: Path) -> None:
    """Leave the good files as they are."""


CARD = json.dumps(notes.CARD)
CARDS = {
    **{f"{name} for a field": f'{{"activation text": {text}}}' for name, text in TEXTS.items()}, **TEXTS,
    "triggers": json.dumps({"activation text": "a," * 400_000}), "a weight": '{"preferred weight": ' + DIGITS + "}",
}  # fmt: skip
TABLES = TEXTS | {name: json.dumps(table) for name, table in RANK_TABLES.items()}
RECIPE = json.dumps({"model": "one.safetensors", "new_rank": 1, "save_to": "out.safetensors"})
BODY = json.dumps({"sd_model": "base.safetensors", "models": ["one"], "save_to": "x"})


def files(name: str, texts: Mapping[str, str]) -> dict[str, Make]:
    """Return what writes each of these texts into a file of one name."""
    return {kind: text_file(name, text) for kind, text in texts.items()}


def good_presets(folder: Path) -> None:
    """Write presets as people have them."""
    text_file("weights.txt", prompts.WEIGHTS)(folder)
    text_file("elements.txt", prompts.ELEMENTS)(folder)


def use_recipe(folder: Path) -> None:
    """Check all jobs of a recipe, and tell what they would do."""
    run_command(["resize", "--quiet", "--dry-run", "--recipe", str(folder / "recipe.json")])


SURFACES = {
    "prompt": Surface(
        text_file("prompt.txt", "<lyco:a:1> a cat"), {"prompt": use_prompt, "infotext": use_infotext}, files("prompt.txt", PIECES)),
    "weights": Surface(good_presets, {"presets": use_presets}, files("weights.txt", PRESET_TEXTS)),
    "elements": Surface(good_presets, {"presets": use_presets}, files("elements.txt", PRESET_TEXTS)),
    "ranks": Surface(nothing, {"resize": use_ranks}, files("ranks.json", TABLES)),
    "undo": Surface(nothing, {"undo": use_undo}, undo_files()),
    "recipe": Surface(text_file("recipe.json", RECIPE), {}, recipes(), {"check": use_recipe}),
    "card": Surface(text_file("one.json", CARD), {"card": use_card}, files("one.json", CARDS)),
    "index": Surface(use_library, {"start": use_library}, indexes()),
    "fields": Surface(nothing, {"read": use_kept}, files("pages.json", TEXTS)),
    "hashes": Surface(nothing, {"read": use_kept}, files(model_hash.NAME, TEXTS)),
    "request": Surface(text_file("body.json", BODY), {}, bodies(), {"post": post}),
}  # fmt: skip
