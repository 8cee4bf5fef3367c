"""What the embedded host makes of a prompt: emphasis, BREAK, AND, prompt editing around words and tags, and strict requests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lib_lycoris import cli
from lib_lycoris.demo import CHECKPOINT
from lib_lycoris.errors import LycorisError
from lib_lycoris.hosts.embedded import host as embedded
from lib_lycoris.hosts.embedded.conditioning import Conditioning
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.embedded.text import PIECE, encode
from lib_lycoris.hosts.infotext import save_png
from lib_lycoris.hosts.protocol import GeneratedImage, GenerationRequest, TagsRefused

LORA, LOHA = "<lyco:demo-lora:{}>", "<lyco:demo-loha:{}>"
SMALL: dict[str, Any] = {"seed": 3, "steps": 4, "width": 64, "height": 64, "cfg": 2.5}
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def host(data: Path) -> EmbeddedHost:
    return EmbeddedHost.open(device="cpu", data=data)


def generate(host: EmbeddedHost, prompt: str, **changes: Any) -> GeneratedImage:
    return host.generate(GenerationRequest(prompt, **{**SMALL, **changes}))


def pixels(host: EmbeddedHost, prompt: str, **changes: Any) -> np.ndarray:
    return np.asarray(generate(host, prompt, **changes).image, dtype=np.float32)


def guided(host: EmbeddedHost, monkeypatch: pytest.MonkeyPatch, prompt: str, **changes: Any) -> list[Conditioning]:
    """Return what would guide each step."""
    caught: list[list[Conditioning]] = []

    def catch(_pipe: Any, _request: Any, _seed: int, steps: list[Conditioning], *_: Any) -> Any:
        caught.append(steps)
        return Image.new("RGB", (8, 8)), []

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "sample", catch)
        generate(host, prompt, **changes)
    return caught[0]


@pytest.mark.parametrize(
    ("edited", "plain"),
    [
        (f"a red circle [{LORA}:{LOHA}:0]", f"a red circle {LOHA}"),
        (f"a red circle [{LORA}:{LOHA}:1.0]", f"a red circle {LORA}"),
        (f"a red circle ({LORA}:1.3)", f"a red circle {LORA}"),
        ("a red circle [<lyco:demo-lora:0:1>:1]", "a red circle <lyco:demo-lora:0:1:start=3>"),
        ("a red circle [<lyco:demo-lora:0:1>::1]", "a red circle <lyco:demo-lora:0:1:stop=3>"),
        ("a [red:blue:0] circle", "a blue circle"),
        ("a (red:1.0) circle", "a red circle"),
        ("a red circle", "(a red circle:1)"),
    ],
)
def test_brackets_mean_what_they_mean_around_words(host: EmbeddedHost, edited: str, plain: str) -> None:
    edited, plain = (text.replace("{}", "1") for text in (edited, plain))
    assert np.array_equal(pixels(host, edited), pixels(host, plain))


def test_networks_alternate_by_step(host: EmbeddedHost) -> None:
    both = pixels(host, "a red circle [<lyco:demo-lora:0:1>|<lyco:demo-loha:0:1>]")
    each = [pixels(host, f"a red circle <lyco:{name}:0:1>") for name in ("demo-lora", "demo-loha")]
    assert not any(np.array_equal(both, one) for one in each)
    by_hand = "a red circle <lyco:demo-lora:0:1@0,1@1,0@2,1@3> <lyco:demo-loha:0:0@0,0@1,1@2,0@3>"  # steps of which the first is two
    assert np.array_equal(both, pixels(host, by_hand))


def test_each_step_has_the_words_and_text_encoders_of_its_networks(host: EmbeddedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = guided(host, monkeypatch, "a [red:blue:2] circle [<lyco:demo-lora:1:0>::1]", negative="fog [rain:2]")
    expected = ["a red circle <lyco:demo-lora:1:0>"] * 2 + ["a red circle", "a blue circle"]
    for step, (now, prompt) in enumerate(zip(steps, expected, strict=True)):
        (wanted, *_) = guided(host, monkeypatch, prompt, negative="fog" if step < 3 else "fog rain")
        assert torch.equal(now.parts[0][0].state, wanted.parts[0][0].state), step
        assert torch.equal(now.negative.state, wanted.negative.state), step
    assert steps[0].parts[0][0] is steps[1].parts[0][0]  # encoded once


def test_keyframes_of_the_text_encoder_move_its_conditioning(host: EmbeddedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = guided(host, monkeypatch, "a red circle <lyco:demo-lora:0@0,1@3:0>")
    for step, strength in ((0, 0), (3, 1)):
        (wanted, *_) = guided(host, monkeypatch, f"a red circle <lyco:demo-lora:{strength}:0>")
        assert torch.equal(steps[step].parts[0][0].state, wanted.parts[0][0].state)


def test_a_networks_word_is_there_while_it_is_on(host: EmbeddedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = guided(host, monkeypatch, "a glimmer [<lyco:demo-embedding:0>::1]")
    with_word, without = (guided(host, monkeypatch, f"a glimmer{tag}")[0] for tag in (" <lyco:demo-embedding:0>", ""))
    assert torch.equal(steps[0].parts[0][0].state, with_word.parts[0][0].state)
    assert torch.equal(steps[3].parts[0][0].state, without.parts[0][0].state)


def test_emphasis_multiplies_and_keeps_the_mean(host: EmbeddedHost) -> None:
    plain, strong = (encode(host.model, text, {}).state for text in ("a red circle", "a (red:1.5) circle"))
    weights = torch.ones(77)
    weights[2] = 1.5  # behind the mark of the beginning and "a"
    wanted = plain * weights[None, :, None]
    torch.testing.assert_close(strong, wanted * (plain.mean() / wanted.mean()))
    assert not torch.equal(encode(host.model, r"a \(red\)", {}).state, encode(host.model, "a red", {}).state)  # brackets are read


def test_break_and_commas_cut_pieces(host: EmbeddedHost) -> None:
    one, two = (encode(host.model, text, {}).state for text in ("red circle", "blue"))
    assert torch.equal(encode(host.model, "red circle BREAK blue", {}).state, torch.cat([one, two], dim=1))
    words = "red " * (PIECE - 6)
    long = encode(host.model, f"{words}, blue blue blue blue blue blue", {}).state
    parts = [encode(host.model, text, {}).state for text in (f"{words},", "blue blue blue blue blue blue")]
    assert torch.equal(long, torch.cat(parts, dim=1))


def test_and_adds_what_each_part_guides_to(host: EmbeddedHost) -> None:
    plain = pixels(host, "a red circle")
    for same in ("a red circle AND a blue square :0", "a red circle :0.5 AND a red circle :0.5", "a red circle :2 AND a red circle :-1"):
        assert np.abs(pixels(host, same) - plain).max() <= 1, same
    assert np.abs(pixels(host, "a red circle AND a blue square") - plain).mean() > 1
    assert np.abs(pixels(host, "a red circle AND a blue square", cfg=1) - plain).mean() > 1


def test_texts_of_unequal_length_are_not_padded(host: EmbeddedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = guided(host, monkeypatch, "red " * 100, negative="fog")
    assert (steps[0].parts[0][0].state.shape[1], steps[0].negative.state.shape[1]) == (154, 77)
    assert np.isfinite(pixels(host, "red " * 100, negative="fog")).all()


def test_what_cannot_be_read_is_a_sentence(host: EmbeddedHost) -> None:
    with pytest.raises(LycorisError, match="99999999"):
        generate(host, "a (red:99999999) circle")


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a <lyco:demo-lora:0>", "demo-lora: its strength is 0 on all that it has, so it changes nothing"),
        ("a <lyco:demo-lora:te=0>", "te=0 also turns the UNet off"),
        ("a <lyco:demo-lora:lbw=NONE>", "its strength is 0 on all that it has"),
        ("a <lyco:demo-lora:0:1:start=5>", "its strength is 0 on all that it has"),
        ("a [<lyco:demo-lora>:9]", "turn it on at no step of 4"),
    ],
)
def test_what_changes_nothing_says_so(host: EmbeddedHost, prompt: str, says: str) -> None:
    made = generate(host, prompt, strict=True)  # notes are no reason to make no image
    assert [says in problem for problem in made.problems] == [True], made.problems
    assert "216 parameters" not in " ".join(made.applied)


def test_a_strict_request_is_refused_before_anything_is_computed(host: EmbeddedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr(embedded, "conditionings", never)
    with pytest.raises(TagsRefused) as caught:
        generate(host, "a <lyco:nope> <lyco:demo-lora:x> <lyco:demo-lora>", strict=True)
    assert ['no network called "nope"' in caught.value.sentences[0], '"x" is not the strength' in caught.value.sentences[1]] == [True, True]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<lyco:demo-lora:1", "the closing > is missing"), ("<lyco>", "the name is missing"), ("<lyco:>", "the name is missing"),
        ("<lyco::1>", "the name of the network is missing"), ("<LYCO:demo-lora:1>", "write <lyco: in small letters"),
        ("<lora:demo-lora", "the closing > is missing"),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_tag_of_ours_is_refused_by_a_strict_request(text: str, says: str, host: EmbeddedHost) -> None:
    with pytest.raises(TagsRefused) as caught:
        generate(host, f"a {text}", strict=True)
    assert [says in sentence for sentence in caught.value.sentences] == [True]
    assert [says in sentence for sentence in generate(host, f"a {text}", steps=1).problems] == [True]


def test_a_kind_that_is_not_ours_is_told_and_stays_in_the_prompt(host: EmbeddedHost) -> None:
    made = generate(host, "a <lycro:demo-lora:1>", steps=1, strict=True)
    assert ["did you mean <lyco:?" in sentence for sentence in made.problems] == [True] and "<lycro:demo-lora:1>" in made.infotext


def test_the_command_ends_with_1_and_goes_on_when_it_is_lenient(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--prompt", "a <lyco:nope>", "--steps", "1", "--size", "64", "--device", "cpu", "--data-dir", str(data)]
    words += ["--out", str(tmp_path / "x.png")]
    assert cli.main(words) == 1
    assert 'error: there is no network called "nope"' in capsys.readouterr().err and list(tmp_path.iterdir()) == []
    assert cli.main([*words, "--json"]) == 1
    failed = json.loads(capsys.readouterr().out)
    assert failed["kind"] == "TagsRefused" and failed["failure"].startswith('there is no network called "nope"')
    assert cli.main([*words, "--lenient"]) == 0
    assert 'note: there is no network called "nope"' in capsys.readouterr().err and (tmp_path / "x.png").is_file()


def test_half_a_character_in_a_prompt_does_not_lose_the_image(host: EmbeddedHost, tmp_path: Path) -> None:
    save_png(generate(host, "a red \udcff circle <lyco:\ud800>", steps=1), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.text["parameters"].startswith("a red ? circle")  # type: ignore[attr-defined]


def test_the_infotext_names_files_as_model_sites_read_them(host: EmbeddedHost, data: Path) -> None:
    prompt = "a [<lyco:demo-lora:1>:<lyco:demo-loha:1>:0.5] (red:1.2) circle"
    text = generate(host, prompt).infotext
    assert text.splitlines()[0] == prompt  # what is pasted makes the same image
    digest = hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    assert f"Model hash: {digest[:10]}, Model: demo-scenes" in text
    lists = [text.split(f'{name} hashes: "')[1].split('"')[0] for name in ("Lora", "Lyco")]
    assert lists[0] == lists[1] and [pair.split(": ")[0] for pair in lists[0].split(", ")] == ["demo-lora", "demo-loha"]
    kept = json.loads((data / "model-hashes.json").read_text())
    assert list(kept.values()) == [digest]
