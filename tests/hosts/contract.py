"""What every host must do, whatever program it is: a class of tests, run by a subclass that knows how to make a rig of its host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pytest
import torch
from torch import Tensor

from lib_lycoris import Activation, load
from lib_lycoris.errors import HostError
from lib_lycoris.hosts.protocol import Host
from tests.webui.files import write_network


class Rig(Protocol):
    """A host, a folder of its networks, and a way to make images with it."""

    host: Host
    folder: Path
    layers: Sequence[str]  # canonical names of some linear layers that show in an image

    def picture(self, tags: str) -> Tensor:
        """Return what a prompt with these tags gives, as numbers; the tags are <lyco:...>."""

    @property
    def problems(self) -> str:
        """What the user was told about the last image."""

    def weights(self) -> dict[str, Tensor]:
        """Return copies of all of the model's parameters."""


def same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two images agree to the bit."""
    return torch.equal(one, other)


class HostContract:
    """Every adapter passes these."""

    @pytest.fixture
    def rig(self) -> Rig:
        """Return a fresh rig with networks ``one`` and ``two`` in its folder; subclasses do."""
        raise AssertionError("a subclass gives the rig")

    def test_it_says_what_it_is(self, rig: Rig) -> None:
        assert rig.host.name and rig.host.base.family == "sd1" and rig.host.identity
        assert rig.folder in rig.host.folders()

    def test_weights_have_canonical_names(self, rig: Rig) -> None:
        for layer in rig.layers:
            weight = rig.host.weight(f"{layer}.weight")
            assert tuple(weight.shape) == rig.host.base.layers[layer].shape
            assert any(same(weight.reshape(-1), known.reshape(-1)) for known in rig.weights().values())
        with pytest.raises(HostError):
            rig.host.weight("diffusion_model.nothing.weight")

    def test_a_tag_changes_the_picture_and_nothing_stays(self, rig: Rig) -> None:
        before, base = rig.weights(), rig.picture("")
        changed = rig.picture("<lyco:one:0.7>")
        assert rig.problems == "" and not same(changed, base)
        assert same(rig.picture(""), base) and same(rig.picture("<lyco:one:0.7>"), changed)
        assert same(rig.picture("<lyco:one:0>"), base)
        assert all(same(tensor, before[name]) for name, tensor in rig.weights().items())

    def test_the_order_of_tags_does_not_matter(self, rig: Rig) -> None:
        assert same(rig.picture("<lyco:one:0.7><lyco:two:-0.5>"), rig.picture("<lyco:two:-0.5><lyco:one:0.7>"))

    def test_a_network_twice_adds_up(self, rig: Rig) -> None:
        once, twice = rig.picture("<lyco:one:0.5>"), rig.picture("<lyco:one:0.3><lyco:one:0.2>")
        assert torch.allclose(once, twice, atol=1e-4 if once.abs().max() < 10 else 1.0)  # the latter are pixels of 0..255

    def test_schedules_follow_the_steps(self, rig: Rig) -> None:
        base, full = rig.picture(""), rig.picture("<lyco:one:0:0.7>")
        assert same(rig.picture("<lyco:one:0:0.7:start=99>"), base) and same(rig.picture("<lyco:one:0:0.7:start=1>"), full)
        later = rig.picture("<lyco:one:0:0.7:start=2>")
        assert not same(later, base) and not same(later, full)

    @pytest.mark.parametrize("name,sentence", [("onee", "one"), ("broken", "broken"), ("foreign", "foreign"), ("one:foo=1", "foo")])
    def test_a_mistake_is_told_and_the_rest_works(self, rig: Rig, name: str, sentence: str) -> None:
        (rig.folder / "broken.safetensors").write_bytes((rig.folder / "one.safetensors").read_bytes()[:-100])
        foreign(rig.folder / "foreign.safetensors")
        base, two = rig.picture(""), rig.picture("<lyco:two>")
        assert rig.problems == ""
        assert same(rig.picture(f"<lyco:{name}>"), base) and sentence in rig.problems
        assert same(rig.picture(f"<lyco:{name}><lyco:two>"), two) and sentence in rig.problems
        assert same(rig.picture(""), base) and rig.problems == ""

    def test_new_and_changed_files_are_seen(self, rig: Rig) -> None:
        base = rig.picture("<lyco:new>")
        write_network(rig.folder / "new.safetensors", rig.host.base, "lora", rig.layers, seed=11)
        first = rig.picture("<lyco:new>")
        assert rig.problems == "" and not same(first, base)
        write_network(rig.folder / "new.safetensors", rig.host.base, "loha", rig.layers, seed=12)
        assert not same(rig.picture("<lyco:new>"), first)

    def test_networks_can_be_put_on_by_hand(self, rig: Rig) -> None:
        network = load(rig.folder / "one.safetensors", rig.host.base)
        report = rig.host.apply([Activation(network, lambda name: 0.5)])
        assert report.networks[0].matched == len(network.patches) and not report.problems
        rig.host.step(1, 2)
        rig.host.clear()
        assert same(rig.picture(""), rig.picture(""))


def foreign(path: Path) -> None:
    """Write a network whose layers are of another size than anybody's."""
    from safetensors.torch import save_file

    name = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k"
    save_file({f"{name}.lora_up.weight": torch.ones(7, 2), f"{name}.lora_down.weight": torch.ones(2, 5)}, str(path))


def make_networks(folder: Path, host: Host, layers: Sequence[str]) -> None:
    """Write the networks ``one`` and ``two``."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, algorithm) in enumerate((("one", "lora"), ("two", "lokr_whole"))):
        write_network(folder / f"{name}.safetensors", host.base, algorithm, layers, seed=seed)
