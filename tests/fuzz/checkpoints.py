"""Hostile checkpoints, and hostile files beside networks, in every place where a tool takes one."""

from __future__ import annotations

import json
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_lycoris.tools import TOOLS

from .mutations import Content, damage_bytes, write_case
from .tiny_files import checkpoint, untouched
from .values import odd_json, odd_number, odd_text, odd_value


def hostile_checkpoint(rng: random.Random, folder: Path) -> None:
    """Give a tool a checkpoint that is wrong in some way, in each of the places where it takes one."""
    with untouched(folder):
        content = Content(checkpoint(1, rng.choice((0.0, 0.01))), {"format": "pt"}, name="case.safetensors")
        (folder / "sub").mkdir()
        path = write_case(content, folder / "sub", rng)
        base, tuned, out = folder / "base.safetensors", folder / "tuned.safetensors", folder / "out.safetensors"
        one, merged, undo = folder / "one.safetensors", folder / "merged.safetensors", folder / "merged.undo"
        calls: tuple[tuple[str, dict[str, Any]], ...] = (
            ("merge", {"sd_model": path, "models": [one], "save_to": out}),
            ("merge", {"sd_model": path, "models": [one], "save_to": out, "undo_file": folder / "x.undo"}),
            ("merge", {"sd_model": base, "models": [path], "save_to": out}),
            ("extract", {"model_org": path, "model_tuned": tuned, "save_to": out, "dim": 2}),
            ("extract", {"model_org": base, "model_tuned": path, "save_to": out, "dim": 2}),
            ("measure", {"model_org": base, "model_tuned": path}), ("measure", {"model_org": path, "model_tuned": tuned}),
            ("verify", {"merged": path}), ("verify", {"merged": merged, "sd_model": path}),
            ("verify", {"merged": merged, "models": [path]}),
            ("undo", {"merged": path, "undo_file": undo, "save_to": out}),
            ("convert", {"model": one, "base_model": path, "save_to": out, "algorithm": "lora"}),
            ("bake", {"model": one, "sd_model": path, "save_to": out}),
            ("resize", {"model": one, "base_model": path, "save_to": out, "new_rank": 1}),
            ("compare", {"models": [one], "base_model": path}), ("networks_merge", {"models": [one, path], "save_to": out}),
            ("split", {"model": path, "save_to": out, "unit": 1}), ("metadata", {"models": [path]}),
        )  # fmt: skip
        name, options = rng.choice(calls)
        TOOLS[name].run(**options)


def hostile_companion(rng: random.Random, folder: Path) -> None:
    """Give a tool a file beside the networks that is wrong: an undo file, ranks, kept metadata, a recipe in a merged file."""
    with untouched(folder):
        out = folder / "out.safetensors"
        kind = rng.randrange(5)
        if kind == 0:
            undo = _damaged_undo(folder, rng)
            TOOLS["undo"].run(merged=folder / "merged.safetensors", undo_file=undo, save_to=out)
        elif kind == 1:
            (folder / "x.json").write_bytes(odd_json(rng, rng.choice((odd_value(rng), {odd_text(rng): odd_number(rng), "(a+)+$": 2}))))
            TOOLS["resize"].run(model=folder / "one.safetensors", new_rank=2, module_ranks=folder / "x.json", save_to=out)
        elif kind == 2:
            copy = folder / "copy.safetensors"
            shutil.copyfile(folder / "one.safetensors", copy)
            TOOLS["metadata"].run(models=[copy], title="new", in_place=True)
            kept = folder / "copy.safetensors.metadata-undo"
            facts = json.loads(kept.read_text("utf-8"))
            facts[rng.choice((*facts, "x"))] = odd_value(rng)
            kept.write_bytes(odd_json(rng, facts))
            TOOLS["metadata"].run(models=[copy], undo=True, in_place=True)
        elif kind == 3:
            _verify_another_recipe(folder, rng)
        else:
            raw = (folder / "merged.undo").read_bytes()
            (folder / "x.undo").write_bytes(damage_bytes(raw, rng))
            TOOLS["undo"].run(merged=folder / "merged.safetensors", undo_file=folder / "x.undo", save_to=out)


def _damaged_undo(folder: Path, rng: random.Random) -> Path:
    """Write an undo file whose manifest, or one of whose parts, is another one."""
    path = folder / "x.undo"
    with zipfile.ZipFile(folder / "merged.undo") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            data = old.read(member)
            if member.filename == "manifest.json":
                data = odd_json(rng, mutated_table(json.loads(data), rng)) if rng.random() < 0.7 else data
            elif rng.random() < 0.2:
                data = rng.choice((damage_bytes(data, rng), b"", bytes(rng.choice((10**4, 10**8)))))
            if rng.random() < 0.95:
                new.writestr(member.filename, data)
    return path


def mutated_table(value: Any, rng: random.Random) -> Any:
    """Return a value with something in it replaced, left out or added, at any depth."""
    if rng.random() < 0.25 or not isinstance(value, (dict, list)) or not value:
        return odd_value(rng)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        return [mutated_table(item, rng) if number == place else item for number, item in enumerate(value)]
    key = rng.choice(list(value))
    if rng.random() < 0.15:
        return {name: item for name, item in value.items() if name != key}
    return {**value, key: mutated_table(value[key], rng)}


def _verify_another_recipe(folder: Path, rng: random.Random) -> None:
    """Verify a merge whose metadata names other inputs and numbers than it was made with."""
    merged = folder / "merged.safetensors"
    with safe_open(merged, "pt") as file:
        metadata = dict(file.metadata())
    recipe = mutated_table(json.loads(metadata["lycoris.recipe"]), rng)
    metadata["lycoris.recipe"] = odd_json(rng, recipe).decode("utf-8", "replace")
    path = folder / "case.safetensors"
    save_file(load_file(merged), path, metadata)
    TOOLS["verify"].run(merged=path)


TARGETS = (hostile_checkpoint, hostile_checkpoint, hostile_companion)
