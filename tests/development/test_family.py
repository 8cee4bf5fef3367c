"""A drafted family declares exactly the layers of the class that it is drafted from."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import run
from lib_lycoris.models.rows import expand
from tests.development.family import built, draft, found_layers, main
from tests.models.tiny_transformers import TINY

pytestmark = pytest.mark.new_set
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("family", [name for name in ("flux", "sd3", "z-image", "wan2.1-14b", "hidream", "ltx") if name in TINY])
def test_a_draft_has_the_layers_of_its_class(family: str, tmp_path: Path) -> None:
    kind, sizes = TINY[family]
    model = built(kind, sizes)
    text = draft(kind, model, family, "tiny sizes")
    (tmp_path / "drafted.py").write_text(text.replace("from ..", "from lib_lycoris.models."), encoding="utf-8")
    made = runpy.run_path(str(tmp_path / "drafted.py"))["FAMILY"]
    layers = dict(expand(made.rows(made.components[0])))
    assert {name: (layer.shape, layer.bias) for name, layer in found_layers(model).items()} == {
        name: (info.shape, info.bias) for name, info in layers.items()
    }
    assert made.id == family and max(map(len, text.splitlines())) <= 140
    command = [sys.executable, "-m", "ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), str(tmp_path / "drafted.py")]
    assert subprocess.run(command, capture_output=True).returncode == 0, text


def test_the_command_prints_a_draft(capsys: pytest.CaptureFixture[str]) -> None:
    main(["MochiTransformer3DModel", "--id", "mochi-1"])
    text = capsys.readouterr().out
    assert 'id="mochi-1"' in text and 'yield linear("transformer_blocks.#.attn1.to_q"' in text and "times=48" in text


def test_what_is_no_class_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="has no class NoSuchModel"):
        main(["NoSuchModel"])
    assert run.main(["--inside", "dev", "no_such"]) == 1
    assert "dev wants the name of a program, one of: family" in capsys.readouterr().err
