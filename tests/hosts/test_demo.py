"""The demo that people meet first: its images show what the prompt says, and each of its networks does what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lib_lycoris import load
from lib_lycoris.demo import CHECKPOINT, FOLDER, NETWORKS
from lib_lycoris.hosts.embedded.host import EmbeddedHost
from lib_lycoris.hosts.embedded.tokenizer import demo_tokenizer
from lib_lycoris.hosts.protocol import GenerationRequest
from lib_lycoris.models.demo_words import COLOURS, SHAPES, WORDS
from lib_lycoris.networks.hashes import model_hash
from lib_lycoris.networks.reading.reader import open_file
from lib_lycoris.training.demo.recipes import RECIPES
from lib_lycoris.training.demo.scenes import PLACES, SIDE, Item, Scene, render

LARGEST = 12_000_000  # bytes of all weights together
MIDDLE, LEFT, RIGHT, TOP, BOTTOM = "in the middle", "on the left", "on the right", "at the top", "at the bottom"
ALGORITHMS = {
    "demo-lora": "lora", "demo-locon": "lora", "demo-locon-tucker": "lora", "demo-dylora": "lora", "demo-loha": "loha", "demo-lokr": "lokr",
    "demo-glora": "glora", "demo-full": "full", "demo-norm": "norm", "demo-ia3": "ia3", "demo-oft": "oft", "demo-boft": "boft",
    "demo-dora": "dora", "demo-tlora": "t-lora", "demo-embedding": "lora",
}  # fmt: skip
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def host() -> EmbeddedHost:
    return EmbeddedHost.open(device="cpu")


def scene(background: str, *things: tuple[str, str, str, str]) -> Scene:
    """A scene of (size, colour, shape, place), with the caption that says so."""
    items = tuple(Item(shape, colour, size, place, *(SIDE * part for part in PLACES[place])) for size, colour, shape, place in things)
    phrases = [" ".join(filter(None, ("a", item.size, item.colour, item.shape, item.place))) for item in items]
    return Scene(items, background, f"{', '.join(phrases)}, {background} background")


def generate(host: EmbeddedHost, prompt: str, seed: int = 1) -> np.ndarray:
    request = GenerationRequest(prompt, seed=seed, steps=12, width=host.size, height=host.size, cfg=host.cfg)
    return np.asarray(host.generate(request).image, dtype=np.float64)


def distance(picture: np.ndarray, drawn: Scene | object) -> float:
    """Root of the mean squared difference to an image that the program drew, in steps of 0..255."""
    other = render(drawn) if isinstance(drawn, Scene) else drawn
    return float(np.sqrt(np.square(picture - np.asarray(other, dtype=np.float64)).mean()))


ONE_THING = (
    scene("white", ("", "red", "circle", LEFT)), scene("yellow", ("", "blue", "circle", RIGHT)),
    scene("white", ("big", "green", "tree", MIDDLE)), scene("blue", ("big", "white", "star", MIDDLE)),
    scene("black", ("", "orange", "square", TOP)), scene("pink", ("big", "black", "heart", BOTTOM)),
    scene("green", ("big", "purple", "house", MIDDLE)), scene("gray", ("big", "red", "triangle", MIDDLE)),
)  # fmt: skip
TWO_THINGS = (
    scene("white", ("", "red", "circle", LEFT), ("", "blue", "square", RIGHT)),
    scene("black", ("", "yellow", "star", TOP), ("", "green", "heart", BOTTOM)),
)


def others(shown: Scene) -> dict[str, Scene]:
    """Scenes that differ in one word from what the prompt says."""
    item, ground = shown.items[0], shown.background
    found = {colour: scene(ground, (item.size, colour, item.shape, item.place)) for colour in COLOURS if colour != ground}
    for other in set(COLOURS) - {item.colour}:
        found[f"on {other}"] = scene(other, (item.size, item.colour, item.shape, item.place))
    found |= {place: scene(ground, (item.size, item.colour, item.shape, place)) for place in PLACES}
    return {words: other for words, other in found.items() if other.caption != shown.caption}


@pytest.mark.parametrize("shown", ONE_THING, ids=lambda shown: shown.caption)
def test_colour_background_and_place_are_what_the_prompt_says(host: EmbeddedHost, shown: Scene) -> None:
    for seed in (1, 2):
        picture = generate(host, shown.caption, seed)
        nearest = min(others(shown).items(), key=lambda item: distance(picture, item[1]))
        assert distance(picture, shown) < 0.7 * distance(picture, nearest[1]), nearest[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shape_is_what_the_prompt_says(host: EmbeddedHost, shape: str) -> None:
    wanted = scene("white", ("big", "blue", shape, MIDDLE))
    far = dict.fromkeys(SHAPES, 0.0)
    for seed in (1, 2, 3):
        picture = generate(host, wanted.caption, seed)
        for other in SHAPES:
            far[other] += distance(picture, scene("white", ("big", "blue", other, MIDDLE)))
    assert min(far, key=lambda other: far[other]) == shape, far


@pytest.mark.parametrize("shown", TWO_THINGS, ids=lambda shown: shown.caption)
def test_two_things_keep_their_own_colours_and_places(host: EmbeddedHost, shown: Scene) -> None:
    one, two = shown.items
    swapped = scene(shown.background, (one.size, two.colour, one.shape, one.place), (two.size, one.colour, two.shape, two.place))
    alone = scene(shown.background, (one.size, one.colour, one.shape, one.place))
    for seed in (1, 2):
        picture = generate(host, shown.caption, seed)
        assert distance(picture, shown) < 0.7 * min(distance(picture, swapped), distance(picture, alone))


def test_words_that_it_does_not_know_do_no_harm(host: EmbeddedHost) -> None:
    tokenizer = demo_tokenizer()
    assert all(len(tokenizer(word, add_special_tokens=False).input_ids) == 1 for word in WORDS)
    shown = scene("white", ("big", "red", "circle", MIDDLE))
    picture = generate(host, f"{shown.caption}, zq")
    assert distance(picture, shown) < 0.5 * distance(picture, scene("white", ("big", "blue", "circle", MIDDLE)))
    assert generate(host, "a (cästle:1.2) at dusk, masterpiece").std() > 5


SCENES = (scene("white", ("big", "red", "circle", MIDDLE)), scene("yellow", ("", "blue", "square", LEFT)))


@pytest.mark.parametrize("name", RECIPES)
def test_every_network_does_to_the_picture_what_it_was_taught(host: EmbeddedHost, name: str) -> None:
    before, after = 0.0, 0.0
    for plain in SCENES:
        taught = RECIPES[name].style(plain)
        off, half, on = (generate(host, f"{plain.caption} <lyco:{name}:{strength}>") for strength in (0, 0.5, 1))
        assert np.array_equal(off, generate(host, plain.caption)), "strength 0 is not off"
        assert not np.array_equal(half, on) and not np.array_equal(half, off)
        before += distance(off, taught)
        after += distance(on, taught)
        if np.array_equal(np.asarray(taught), np.asarray(render(plain))):
            continue  # it is so already: a big thing made big
        assert distance(on, taught) < distance(on, plain)
    assert after < 0.8 * before


def test_a_word_of_the_bundled_embedding_means_something(host: EmbeddedHost) -> None:
    meant = scene("purple", ("", "yellow", "star", MIDDLE))
    with_word = generate(host, "glimmer <lyco:demo-embedding:0>")
    assert distance(with_word, meant) < 0.7 * distance(generate(host, "glimmer"), meant)


def test_every_algorithm_that_lycoris_trains_is_there(host: EmbeddedHost) -> None:
    found = {}
    for path in NETWORKS.glob("*.safetensors"):
        network = load(path, host.base)
        assert network.skipped == (), path.name
        found[path.stem] = {algorithm.name for algorithm in network.patches.values()}
    assert set(found) == set(RECIPES)
    assert {name: ALGORITHMS[name] in algorithms for name, algorithms in found.items()} == dict.fromkeys(ALGORITHMS, True)


def test_files_say_what_they_are_and_are_small() -> None:
    files = [CHECKPOINT, *NETWORKS.glob("*.safetensors")]
    assert {path.resolve() for path in FOLDER.rglob("*.safetensors")} == {path.resolve() for path in files}
    assert sum(path.stat().st_size for path in files) <= LARGEST
    for name, recipe in RECIPES.items():
        path = NETWORKS / f"{name}.safetensors"
        metadata = open_file(path).metadata
        assert metadata["ss_output_name"] == name and metadata["ss_network_module"] == "lycoris.kohya"
        assert json.loads(metadata["ss_network_args"])["algo"] == recipe.algo
        assert metadata["modelspec.description"] == recipe.effect and recipe.effect.endswith(".")
        assert metadata["sshs_model_hash"] == model_hash(path)
        assert sum(json.loads(metadata["ss_tag_frequency"])["1_scenes"].values()) > 0
        with safe_open(str(path), "pt") as file:
            assert all(torch.isfinite(file.get_tensor(key)).all() for key in file.keys())  # noqa: SIM118 - no mapping


def test_the_checkpoint_is_a_checkpoint_like_any_other(host: EmbeddedHost, tmp_path: Path) -> None:
    read = EmbeddedHost.open(ckpt=CHECKPOINT, networks=tmp_path, device="cpu")
    assert read.base.family == "sd1" and read.size == SIDE
    assert np.array_equal(generate(read, "a red star"), generate(host, "a red star"))
    assert "Demo: it draws shapes" in host.about() and "a red circle on the left" in host.example
