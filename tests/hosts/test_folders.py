"""Where the app keeps things, what older versions left in the cache, and the cards of network files with the user's notes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_lycoris.demo import CHECKPOINT
from lib_lycoris.errors import HostError
from lib_lycoris.hosts.embedded import folders
from lib_lycoris.hosts.embedded.files import open_store, use_checkpoint
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.library.cards import LibraryCards
from lib_lycoris.hosts.library.library import Library

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize("text, place", [(None, "Documents"), ('XDG_DOCUMENTS_DIR="$HOME/Dokumente"\n', "Dokumente")])
def test_results_go_to_the_users_documents(text: str | None, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("XDG_DOCUMENTS_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    if text is not None:
        (tmp_path / ".config").mkdir()
        (tmp_path / ".config" / "user-dirs.dirs").write_text(text)
    assert folders.kept_folder() == tmp_path / place / "LyCORIS"


def test_what_an_older_version_left_in_the_cache_is_used_offered_and_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DOCUMENTS_DIR", str(tmp_path / "documents"))
    monkeypatch.setattr(sys, "platform", "linux")
    old, kept = tmp_path / "cache" / "sd-webui-lycoris", tmp_path / "documents" / "LyCORIS"
    for name in ("networks/mine.safetensors", "networks/taken.safetensors", "checkpoints/merged.safetensors", "index.json"):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_text(name)
    (old / "checkpoints" / CHECKPOINT.name).write_text("the demo's own")
    (kept / "networks").mkdir(parents=True)
    (kept / "networks" / "taken.safetensors").write_text("another one")
    host = EmbeddedHost.open(device="cpu")
    assert "mine" in host.networks()
    store = open_store(host, None, None, None)
    host.library.wait()
    assert (store.kept_folder(), store.data_folder()) == (kept, old)
    assert store.old.sentence().startswith("3 files of an older version lie in the cache folder")
    assert store.old.move() == [f"taken.safetensors stays in the cache folder: one of that name is in {kept / 'networks'} already"]
    assert (kept / "networks" / "mine.safetensors").read_text() == "networks/mine.safetensors"
    assert (kept / "networks" / "taken.safetensors").read_text() == "another one"
    assert (kept / "checkpoints" / "merged.safetensors").is_file() and (old / "index.json").is_file()
    assert store.old.files() == [old / "networks" / "taken.safetensors"]


def test_the_loaded_checkpoint_is_known_by_its_name(tmp_path: Path) -> None:
    host = EmbeddedHost.open(device="cpu", data=tmp_path)
    store = open_store(host, None, None, tmp_path)
    found = store.loaded()
    assert found is not None and found.path == tmp_path / "checkpoints" / CHECKPOINT.name
    other = tmp_path / "checkpoints" / "other.safetensors"
    other.write_bytes(CHECKPOINT.read_bytes())
    store.refresh()
    use_checkpoint(host, other)
    found = store.loaded()
    assert found is not None and found.name == "other.safetensors"
    assert "of" in host.memory() if sys.platform == "linux" else True


@pytest.fixture
def cards(tmp_path: Path) -> LibraryCards:
    (tmp_path / "sub").mkdir()
    tensors = {f"{LAYER}.lora_up.weight": torch.ones(320, 2), f"{LAYER}.lora_down.weight": torch.ones(2, 320)}
    texts = {
        "ss_base_model_version": "sd_v1",
        "ss_tag_frequency": json.dumps({"a": {"hat": 3}}),
        "modelspec.trigger_phrase": "red hat, blue",
    }
    save_file(tensors, tmp_path / "sub" / "a.safetensors", texts)
    save_file(tensors, tmp_path / "b.safetensors", {"ss_base_model_version": "sd_v1"})
    (tmp_path / "broken.safetensors").write_bytes(b"no network")
    (tmp_path / "sub" / "a.preview.png").write_bytes(b"png")
    library = Library([tmp_path])
    return LibraryCards(lambda: library)


def test_a_card_tells_what_the_file_and_the_user_say(cards: LibraryCards, tmp_path: Path) -> None:
    one, two, broken = cards.cards()
    assert (one.name, one.folder, one.base, one.algorithms, one.triggers) == ("a", "sub", "SD1", ("LoRA",), ("red hat", "blue"))
    assert one.tags == (("hat", 3),) and one.preview == tmp_path / "sub" / "a.preview.png" and one.size > 0
    assert two.preview is None and two.triggers == () and not two.favourite and two.preferred is None
    assert broken.broken and not two.broken
    (tmp_path / "b.json").write_text(json.dumps({"preferred weight": 0.6, "other": [1], "activation text": "x"}))
    cards.keep("b", {"notes": "good", "favourite": True})
    found = cards.card("b")
    assert (found.notes, found.favourite, found.preferred, found.triggers) == ("good", True, 0.6, ("x",))
    assert json.loads((tmp_path / "b.json").read_text())["other"] == [1]


def test_notes_that_are_no_table_are_never_written_over(cards: LibraryCards, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("[1]")
    with pytest.raises(HostError, match=r"b\.json is there but holds no table"):
        cards.keep("b", {"notes": "x"})
    assert (tmp_path / "b.json").read_text() == "[1]"
    with pytest.raises(HostError, match='no network called "none"'):
        cards.card("none")


@pytest.mark.parametrize("weight", ["9" * 399, "1e999", "-1e300", "NaN", "[1]", '"\\ud800"', "{}"])
def test_a_weight_that_no_tag_can_have_costs_itself_and_no_card(weight: str, cards: LibraryCards, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(f'{{"preferred weight": {weight}, "notes": "kept"}}')
    _, found, _ = cards.cards()
    assert (found.preferred, found.notes) == (None, "kept")


def test_half_a_character_in_notes_costs_itself_and_stays_in_the_file(cards: LibraryCards, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text('{"notes": "a\\ud800", "other": "\\udfff"}')
    _, found, _ = cards.cards()
    assert found.notes == "a?"
    cards.keep("b", {"favourite": True})
    assert json.loads((tmp_path / "b.json").read_text("utf-8"))["other"] == "\udfff"
    assert cards.card("b").favourite
