"""Sentences of the tools on a page: options are called as the fields are."""

from __future__ import annotations

from pathlib import Path

from lib_lycoris.tools import TOOLS
from lib_lycoris.tools.files.store import ModelFile
from lib_lycoris.ui.parts.tools.fields import as_shown, with_fields
from tests.ui.test_inspect import FakeShelf


def test_a_sentence_speaks_of_the_pages_fields() -> None:
    assert with_fields("it is `models`", TOOLS["verify"]) == 'it is "Networks that were merged"'
    assert with_fields("it is `models`", TOOLS["merge"]) == 'it is "Networks"'
    said = "`concat` keeps all ranks and is exact, `dim=4` would not be; give only one of them"
    assert with_fields(said, TOOLS["networks_merge"]).startswith('"Concat" keeps all ranks and is exact, "Rank" 4 would not be')


def test_files_of_the_known_folders_are_called_as_the_pages_call_them(tmp_path: Path) -> None:
    store, demo = FakeShelf(tmp_path), tmp_path.parent / "demo"
    names = ("style", "sub/style", "demo-lora")
    store.networks = lambda: [ModelFile(name, (demo if "demo" in name else tmp_path) / f"{name}.safetensors") for name in names]
    text = f"from {tmp_path}/sub/style.safetensors, {demo}/demo-lora.safetensors; `models` is in {tmp_path} and /elsewhere/x.safetensors"
    said = f'from sub/style.safetensors, demo-lora.safetensors; "Networks that were merged" is in {tmp_path} and /elsewhere/x.safetensors'
    assert as_shown(text, TOOLS["verify"], store) == said
    store.networks = lambda: [ModelFile("x", Path("/x.safetensors"))]
    assert as_shown("/x.safetensors/y", TOOLS["verify"], store) == "/x.safetensors/y"
