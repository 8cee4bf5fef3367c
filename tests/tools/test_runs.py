"""A training's file of progress, read by who follows it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lib_lycoris.tools.training import runs


def step(number: int) -> str:
    return json.dumps({"event": "step", "step": number, "steps": 9, "recent": number / 10, "norm": 1.0, "seconds": 0.5}) + "\n"


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cat.training"
    folder.mkdir()
    progress = folder / runs.PROGRESS
    reader, read = runs.RunReader(folder), []
    own = runs.parse_json

    def counted(text: str) -> Any:
        read.append(text)
        return own(text)

    monkeypatch.setattr(runs, "parse_json", counted)
    assert reader.look().status == "ended" and reader.look().losses == []
    progress.write_text(step(1) + step(2) + step(3)[:20])
    assert reader.look().losses == [(1, 0.1), (2, 0.2)] and len(read) == 2
    with progress.open("a") as file:  # the rest of the line, and another
        file.write(step(3)[20:] + step(4))
    assert reader.look().losses == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)] and len(read) == 4
    assert reader.look().step == 4 and len(read) == 4
    assert runs.facts_of(folder).losses == reader.look().losses


def test_a_file_that_was_written_anew_is_read_from_its_beginning(tmp_path: Path) -> None:
    folder = tmp_path / "cat.training"
    folder.mkdir()
    (folder / runs.PROGRESS).write_text(step(1) + step(2) + step(3))
    reader = runs.RunReader(folder)
    assert reader.look().step == 3
    (folder / "new").write_text(step(1) + step(2) + step(2) + step(2) + step(2))  # longer, as of a run that was gone on with
    os.replace(folder / "new", folder / runs.PROGRESS)
    assert [number for number, _ in reader.look().losses] == [1, 2, 2, 2, 2] and reader.look().step == 2
    (folder / runs.PROGRESS).write_text(step(1))
    assert reader.look().step == 1


def test_lines_that_a_killed_process_left_in_half_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "cat.training"
    folder.mkdir()
    (folder / runs.PROGRESS).write_text(step(1) + step(2)[:20] + step(3) + step(4))
    facts = runs.facts_of(folder)
    assert [number for number, _ in facts.losses] == [1, 4] and facts.name == "cat" and facts.network == tmp_path / "cat.safetensors"
