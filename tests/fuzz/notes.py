"""Hostile small files beside networks and in the data folder, and pasted texts: used as far as they go, else as if empty."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from lib_lycoris.hosts.library import model_hash
from lib_lycoris.hosts.library.index import NAME
from lib_lycoris.hosts.library.library import Library
from lib_lycoris.hosts.webui.interface import card_files, paste
from lib_lycoris.networks.tag_counts import top_tags
from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.files.checkpoints.folder import correct_index
from lib_lycoris.ui.settings import Settings

from .checkpoints import mutated_table
from .judge import Unclean
from .tiny_files import good_files
from .values import odd_json, odd_text, odd_value

BLOCK = "down_blocks.0.attentions.0"
UNET = {f"{BLOCK}.transformer_blocks.0.attn1.to_q.weight": torch.ones(16, 16), f"{BLOCK}.proj_in.weight": torch.ones(16, 16, 1, 1)}
CARD = {"description": "a style", "sd version": "SD1", "activation text": "red", "preferred weight": 0.8, "negative text": "", "notes": "x"}


def user_notes(rng: random.Random, folder: Path) -> None:
    """Read what a `<file>.json` holds as a card does."""
    try:
        found = json.loads(odd_json(rng, mutated_table(CARD, rng)))
    except (ValueError, RecursionError):  # the webui reads this file, and gives nothing for one that is none
        found = {}
    said = card_files.showable(found) if isinstance(found, dict) else {}
    text = json.dumps({"weight": card_files.weight(said.get("preferred weight")), "said": said}, ensure_ascii=False)
    if not abs(card_files.weight(said.get("preferred weight"))) <= 10_000:
        raise Unclean("a weight that no tag can have")
    text.encode("utf-8")
    top_tags({"ss_tag_frequency": odd_json(rng, odd_value(rng)).decode("utf-8", "replace")}, 5)


def library_index(rng: random.Random, folder: Path) -> None:
    """Start with a damaged index of the library, and write a new one."""
    (folder / "nets").mkdir()
    for name in ("one", "two"):
        shutil.copyfile(good_files() / f"{name}.safetensors", folder / "nets" / f"{name}.safetensors")
    first = Library([folder / "nets"], folder / "data")
    first.scan()
    first.wait()
    (place,) = (folder / "data").rglob(NAME)
    lines = place.read_bytes().split(b"\n")
    number = rng.randrange(len(lines))
    lines[number] = odd_json(rng, mutated_table(json.loads(lines[number]), rng))
    place.write_bytes(b"\n".join(lines))
    again = Library([folder / "nets"], folder / "data")
    again.scan()
    again.wait()
    for name, file in again.named.items():
        if again.facts(file.path) != first.facts(first.named[name].path) and number != 2 and number != 1:
            raise Unclean(f"other facts of {name}")
    if set(again.named) != {"one", "two"}:
        raise Unclean(f"the library has {list(again.named)}")


def kept_fields(rng: random.Random, folder: Path) -> None:
    """Read the kept fields of pages and the hashes of models, and write them."""
    (folder / "pages.json").write_bytes(odd_json(rng, mutated_table({"merge": {"name": "x"}, "extract": {"rank": 4}}, rng)))
    settings = Settings(folder / "pages.json")
    settings.get("merge", "name")
    settings.keep(odd_text(rng), odd_text(rng), odd_value(rng))
    settings.keep("merge", "name", "new")
    if Settings(folder / "pages.json").get("merge", "name") != "new":
        raise Unclean("a field is not kept")
    (folder / model_hash.NAME).write_bytes(odd_json(rng, odd_value(rng)))
    if model_hash.model_file_hash(good_files() / "base.safetensors", folder) != model_hash.model_file_hash(
        good_files() / "base.safetensors", None
    ):
        raise Unclean("another hash")


def model_folder(rng: random.Random, folder: Path) -> None:
    """Merge into a diffusers folder whose small files are damaged."""
    source = folder / "pipe"
    for part in ("unet", "text_encoder", "scheduler"):
        (source / part).mkdir(parents=True)
    (source / "model_index.json").write_bytes(odd_json(rng, {"_class_name": "StableDiffusionPipeline"}))
    save_file(UNET, source / "unet" / "diffusion_pytorch_model.safetensors")
    listed = {"metadata": {"total_size": 5}, "weight_map": {"a": "diffusion_pytorch_model.safetensors", "b": "../../one.safetensors"}}
    index = source / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_bytes(odd_json(rng, mutated_table(listed, rng)))
    (source / "scheduler" / "scheduler_config.json").write_bytes(odd_json(rng, mutated_table({"prediction_type": "epsilon"}, rng)))
    correct_index(index)
    TOOLS["merge"].run(sd_model=source, models=[good_files() / "one.safetensors"], save_to=folder / "out")


def pasted(rng: random.Random, folder: Path) -> None:
    """Read the hashes and the tags of an infotext from somewhere."""
    pieces = ("a: 0123abcd", "b,c: 0x89ef4567", ": 0123abcd", "a:" * 200, ",", '"', "x" * 300, odd_text(rng), "<lyco:a:1>", "0" * 70)
    text = ", ".join(rng.choice(pieces) for _ in range(rng.choice((1, 3, 300))))
    hashes = paste.read_hashes({"Lyco hashes": text, "Lora hashes": odd_value(rng)})
    paste.renamed(text, hashes, {"0123abcd": "here"}.get)


TARGETS = (user_notes, library_index, kept_fields, model_folder, pasted)
