"""The library of network files: names at once, headers read once, an index that survives everything but a change of the file."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib_lycoris.errors import HostError
from lib_lycoris.hosts.library import facts as library_facts
from lib_lycoris.hosts.library import scan as library_scan
from lib_lycoris.hosts.library.facts import Describer, NetworkFacts, read_metadata, read_names
from lib_lycoris.hosts.library.index import Index
from lib_lycoris.hosts.library.library import Library
from lib_lycoris.networks.reading import header
from lib_lycoris.networks.reading.folder import EXTENSIONS

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
TABLE = {
    f"{LAYER}.lora_down.weight": {"dtype": "F16", "shape": [4, 768], "data_offsets": [0, 6144]},
    f"{LAYER}.lora_up.weight": {"dtype": "F16", "shape": [320, 4], "data_offsets": [6144, 8704]},
    f"{LAYER}.alpha": {"dtype": "F16", "shape": [], "data_offsets": [8704, 8706]},
}
DATA = 8706  # bytes


def write(path: Path, metadata: Any = None, raw: bytes | None = None, data: int = DATA) -> Path:
    """Write a network file whose tensors are a hole."""
    if raw is None:
        raw = json.dumps({**({} if metadata is None else {"__metadata__": metadata}), **TABLE}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + data)
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of files whose headers are opened by the library."""
    found: list[str] = []

    def counting(path: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(Path(path).name)
        return open(path, *args, **kwargs)

    monkeypatch.setattr(header, "open", counting, raising=False)
    return found


def scanned(folder: Path, data: Path | None) -> Library:
    library = Library([folder], data)
    library.scan()
    library.wait()
    return library


def test_a_name_needs_no_header(tmp_path: Path, opened: list[str]) -> None:
    write(tmp_path / "a.safetensors", {"ss_output_name": "other"})
    write(tmp_path / "sub/b.safetensors")
    library = Library([tmp_path])
    assert [library.find(name).place for name in ("a", "A.safetensors", "sub/b", "SUB\\B")] == ["a", "a", "sub/b", "sub/b"]
    assert library.names() == ["a", "b"] and opened == []


def test_a_folder_that_is_named_twice_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in/a.safetensors")
    monkeypatch.chdir(tmp_path)
    library = Library([Path("in"), tmp_path / "in"])
    assert library.find("a").place == "a" and len(library.files) == 1


def test_names_that_come_twice_have_their_folder(tmp_path: Path) -> None:
    for place in ("one/a", "two/A", "b"):
        write(tmp_path / f"{place}.safetensors")
    library = Library([tmp_path])
    assert library.names() == ["b", "one/a", "two/A"]
    assert library.find("A").place == "two/A" and library.find("one/a").place == "one/a"
    with pytest.raises(HostError, match=r'"onea".*nearest name is one/a'):
        library.find("onea")


HEADERS: dict[str, Callable[[dict[str, str]], str]] = {
    "first": lambda m: json.dumps({"__metadata__": m, **TABLE}, separators=(",", ":")),
    "last": lambda m: json.dumps({**TABLE, "__metadata__": m}),
    "spaced": lambda m: ' {\n "__metadata__" : ' + json.dumps(m, indent=2, ensure_ascii=False) + " ,\t" + json.dumps(TABLE)[1:] + "   ",
    "alone": lambda m: json.dumps({"__metadata__": m}),
}


@pytest.mark.parametrize("order", HEADERS)
@pytest.mark.parametrize("size", [10, header.LEADING - 200, header.LEADING, 3 * header.LEADING])
def test_metadata_is_found_wherever_it_stands(tmp_path: Path, order: str, size: int) -> None:
    note = 'ü "__metadata__" \\ } ' + "é€😀" * (size // 9)
    metadata = {"note": note, "ss_output_name": " Ärger 😀 ", "sshs_model_hash": "0x" + "ab" * 32}
    path = write(tmp_path / "a.safetensors", raw=HEADERS[order](metadata).encode(), data=0 if order == "alone" else DATA)
    assert read_metadata(path) == metadata
    found = read_names(path)
    assert (found.alias, found.stored_hash, found.entries) == ("Ärger 😀", "abababababab", 3)


def test_a_file_without_metadata_has_no_alias(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    assert read_metadata(path) == {} and read_names(path).alias == ""
    assert read_names(write(tmp_path / "b.pt", raw=b"")) == NetworkFacts(library_facts.stamp_of(tmp_path / "b.pt"), described=True)


def test_only_the_beginning_of_a_header_is_read_for_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = {f"{LAYER}{index}.alpha": {"dtype": "F16", "shape": [], "data_offsets": [0, 2]} for index in range(5000)}
    path = write(tmp_path / "a.safetensors", raw=json.dumps({"__metadata__": {"ss_output_name": "x"}, **rest}).encode())
    monkeypatch.setattr(header, "_exactly", lambda *_: pytest.fail("more than the beginning was read"))
    assert path.stat().st_size > 5 * header.LEADING and read_names(path).alias == "x"


def test_facts_tell_algorithm_family_tags_and_cover(tmp_path: Path) -> None:
    tags = json.dumps({"10_x": {"hat": 3, "cat": 5}, "5_y": {"hat": 4, "bad": "x"}})
    write(tmp_path / "a.safetensors", {"ss_tag_frequency": tags, "ssmd_cover_images": '["AA=="]', "modelspec.title": "T" * 1000})
    found = Library([tmp_path]).facts(tmp_path / "a.safetensors")
    assert (found.version, found.algorithms, found.label) == ("SD1", {"LoRA": 1}, "LoRA, SD1")
    assert found.tags == (("hat", 7), ("cat", 5)) and found.cover and found.listed == {"modelspec.title": "T" * library_facts.LONGEST}


def test_equal_tables_are_worked_out_once_and_a_cut_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work: list[str] = []
    kinds = library_facts._kinds
    monkeypatch.setattr(library_facts, "_kinds", lambda path: (work.append(path.name), kinds(path))[1])
    for index in range(5):
        raw = json.dumps({"__metadata__": {"ss_output_name": "x" * index}, **TABLE}).encode()
        write(tmp_path / f"{index}.safetensors", raw=raw + b" " * (-len(raw) % 8))
    write(tmp_path / "cut.safetensors", {}, data=100)
    describe = Describer()
    found = [describe(path, read_names(path)) for path in sorted(tmp_path.iterdir())]
    assert len(work) == 2 and all(facts.algorithms == {"LoRA": 1} for facts in found[:5])
    assert "cut.safetensors is cut off" in found[5].broken and found[5].label == "cannot be read"


def test_a_second_start_reads_no_header(tmp_path: Path, opened: list[str]) -> None:
    folder, data = tmp_path / "networks", tmp_path / "data"
    for index in range(100):  # more than one thread takes
        write(folder / f"{index}.safetensors", {"ss_output_name": f"name {index}", "ss_tag_frequency": '{"a": {"tag\\t1": 1}}'})
    before = scanned(folder, data)
    facts = {file.place: before.facts(file.path) for file in before.files}
    # names, tables, and one look at the layers of each different table (the padding differs), in each thread at most
    assert 200 < len(opened) <= 210 and sorted(path.name for path in folder.iterdir()) == sorted(f"{n}.safetensors" for n in range(100))
    assert [path.name for path in data.iterdir()] == ["index.json"]
    opened.clear()
    after = scanned(folder, data)
    assert after.find("NAME 7").place == "7" and opened == []
    assert {file.place: after.facts(file.path) for file in after.files} == {
        place: library_facts.replace(found, tags=(("tag 1", 1),)) for place, found in facts.items()
    }
    assert opened == []


def test_what_changes_is_read_again_and_what_goes_is_forgotten(tmp_path: Path, opened: list[str]) -> None:
    folder, data = tmp_path / "networks", tmp_path / "data"
    for name in "abc":
        write(folder / f"{name}.safetensors", {"ss_output_name": f"old {name}"})
    scanned(folder, data)
    write(folder / "a.safetensors", {"ss_output_name": "new a, and longer"})
    (folder / "b.safetensors").rename(folder / "moved.safetensors")
    (folder / "c.safetensors").unlink()
    opened.clear()
    library = scanned(folder, data)
    assert library.find("new a, and longer").place == "a" and library.find("old b").place == "moved"
    for gone in ("old a", "old c", "b", "c"):
        with pytest.raises(HostError):
            library.find(gone)
    assert set(opened) == {"a.safetensors", "moved.safetensors"}
    rows = json.loads((data / "index.json").read_text().split("\n")[1])
    assert sorted(Path(path).name for path in rows) == ["a.safetensors", "moved.safetensors"]


def test_a_new_file_is_found_without_a_refresh(tmp_path: Path) -> None:
    library = Library([tmp_path])
    write(tmp_path / "late.safetensors", {"ss_output_name": "alias of it"})
    assert library.find("late").place == "late" and library.find("Alias of it").place == "late"


def test_a_tag_that_only_an_alias_explains_waits_for_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.safetensors", {"ss_output_name": "alias"})
    may_read, found = threading.Event(), []

    def slow(path: str) -> NetworkFacts:
        assert may_read.wait(10)
        return read_names(path)

    monkeypatch.setattr(library_scan, "read_names", slow)
    library = Library([tmp_path])
    library.scan()
    assert library.find("a").place == "a"  # its file's name is enough
    asking = threading.Thread(target=lambda: found.append(library.find("alias").place))
    asking.start()
    time.sleep(0.05)
    assert not found
    may_read.set()
    asking.join(10)
    assert found == ["a"]
    library.wait()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "", lambda text: "{", lambda text: text[: len(text) // 2], lambda text: text.replace('"version":1', '"version":0'),
        lambda text: "\n".join([*text.split("\n")[:2], "[]"]), lambda text: text.replace("true", '"true"'),
        lambda text: "\n".join(['{"version":1}', "[]", "[]"]), lambda text: text.replace("LoRA\\t1", "LoRA\\tmany"),
        lambda text: "\n".join([*text.split("\n")[:2], "[[1,2]]"]), lambda text: "\x00\xff" * 50,
    ],
)  # fmt: skip
def test_a_damaged_index_costs_time_and_nothing_else(tmp_path: Path, damage: Callable[[str], str]) -> None:
    folder, data = tmp_path / "networks", tmp_path / "data"
    path = write(folder / "a.safetensors", {"ss_output_name": "alias"})
    expected = scanned(folder, data).facts(path)
    index = data / "index.json"
    index.write_text(damage(index.read_text()), encoding="latin-1")
    library = scanned(folder, data)
    assert library.find("alias").path == path and library.facts(path) == expected


def test_a_broken_file_is_looked_at_again_at_every_start(tmp_path: Path, opened: list[str]) -> None:
    folder, data = tmp_path / "networks", tmp_path / "data"
    path = write(folder / "a.safetensors", raw=b"[[[[[[[[")
    assert "a.safetensors" in scanned(folder, data).facts(path).broken
    opened.clear()
    assert scanned(folder, data).facts(path).broken and opened


def test_two_programs_may_write_one_index(tmp_path: Path) -> None:
    paths = {
        name: [write(tmp_path / name / f"{n}.safetensors", {"ss_output_name": f"{name} {n}"}) for n in range(8)] for name in ("x", "y")
    }
    where = tmp_path / "data" / "index.json"

    def work(name: str) -> None:
        for _ in range(20):
            index = Index(where)
            for path in paths[name]:
                index.put(str(path), read_names(path))
            index.save({str(path) for path in paths[name]}, [tmp_path / name])

    threads = [threading.Thread(target=work, args=(name,)) for name in paths]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if where.exists():
            assert len(where.read_text().split("\n")) == 3  # whole at every moment
    work("x")
    work("y")
    index = Index(where)
    assert [index.alias(str(path)) for path in (paths["x"][3], paths["y"][5])] == ["x 3", "y 5"]
    assert [path.name for path in where.parent.iterdir()] == ["index.json"]


def test_a_folder_that_cannot_be_written_is_told_and_the_scan_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "networks/a.safetensors", {"ss_output_name": "alias"})
    (tmp_path / "data").write_text("a file where the folder should be")
    library = scanned(tmp_path / "networks", tmp_path / "data")
    assert library.find("alias").place == "a"
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_files_of_every_ending_that_is_read_are_found(tmp_path: Path) -> None:
    for ending in EXTENSIONS:
        (tmp_path / f"net{ending[1:]}{ending}").write_bytes(b"")
    library = Library([tmp_path])
    for ending in EXTENSIONS:
        for name in (f"net{ending[1:]}", f"net{ending[1:]}{ending}"):
            assert library.find(name).path == tmp_path / f"net{ending[1:]}{ending}"


def test_the_safetensors_file_is_meant_where_a_pickle_of_its_name_lies_beside_it(tmp_path: Path) -> None:
    for ending in (".bin", ".ckpt", ".pt", ".safetensors"):
        (tmp_path / f"net{ending}").write_bytes(b"")
    assert Library([tmp_path]).find("net").path.suffix == ".safetensors"
    assert Library([tmp_path]).named["net"].path.suffix == ".safetensors"


def test_a_folder_that_was_saved_as_a_network_has_its_name(tmp_path: Path) -> None:
    for place in ("style/adapter_model.safetensors", "deep/er/pytorch_lora_weights.bin", "many/adapter_model.bin", "many/b.pt"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    library = Library([tmp_path])
    assert sorted(library.named) == ["adapter_model", "b", "er", "style"]
    for name in ("style", "style/adapter_model", "Style"):
        assert library.find(name).path == tmp_path / "style/adapter_model.safetensors"
    assert library.find("deep/er").path.name == "pytorch_lora_weights.bin"
    with pytest.raises(HostError, match='no network called "many"'):
        library.find("many")  # a folder of networks


def test_a_file_beside_a_folder_of_its_name_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "style").mkdir()
    for place in ("style.safetensors", "style/adapter_model.safetensors"):
        (tmp_path / place).write_bytes(b"")
    library = Library([tmp_path])
    assert library.find("style").path == tmp_path / "style.safetensors"
    assert library.find("style/adapter_model").path == tmp_path / "style/adapter_model.safetensors"
