"""The contract on every adapter: the webui's against a stand-in for its modules, and our own host; then what only the webui does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lib_lycoris.hosts.webui import activation as webui_activation
from lib_lycoris.hosts.webui import adapters, files
from lib_lycoris.hosts.webui import host as a1111
from lib_lycoris.hosts.webui import register as webui_register
from lib_lycoris.networks.writer import save
from lib_lycoris.patching.layers import layer as layers
from tests.hosts.contract import HostContract, make_networks, same
from tests.hosts.standin import Params, Processing, StandIn, running
from tests.webui.files import write_network

UNET = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
WORDS = "transformer.text_model.encoder.layers.0.mlp.fc1"


class WebuiRig:
    """The webui's adapter in a stand-in."""

    layers = (UNET, WORDS)

    def __init__(self, program: StandIn) -> None:
        self.program = program
        self.folder = program.folder / "LyCORIS"
        self.folder.mkdir(parents=True, exist_ok=True)
        a1111.host.cache_clear()
        webui_activation.network.cache_clear()
        self.read_script()
        program.before_ui()
        self.network = webui_activation.network()
        self.host = self.network.host
        make_networks(self.folder, self.host, self.layers)

    def read_script(self) -> None:
        webui_register.before_ui(webui_register.register)
        self.program.script = webui_register.script()()

    def picture(self, tags: str, **fields: Any) -> Tensor:
        Processing.cached_c[0] = None
        return self.again(tags, **fields)

    def again(self, tags: str, **fields: Any) -> Tensor:
        """Return an image, with what the text encoder gave before where the program keeps it."""
        return self.program.run(f"a cat {tags}", **fields)

    @property
    def problems(self) -> str:
        assert self.program.p is not None
        told = self.program.p.extra_generation_params.get("Lyco problems", "")
        assert told == " | ".join(self.program.p.comments)
        return str(told)

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.program.models[0].state_dict().items()}


@pytest.fixture
def webui(tmp_path: Path) -> Iterator[WebuiRig]:
    with running(tmp_path) as program:
        yield WebuiRig(program)


class TestWebui(HostContract):
    @pytest.fixture
    def rig(self, webui: WebuiRig) -> WebuiRig:
        return webui


class TestWebuiWithoutItsLoader(HostContract):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[WebuiRig]:
        with running(tmp_path, built_in=False) as program:
            yield WebuiRig(program)


def test_while_scripts_are_read_one_callback_is_registered(webui: WebuiRig) -> None:
    """Each takes the webui 40 ms there."""
    webui.program.callbacks.clear()
    webui.read_script()
    assert {event: len(found) for event, found in webui.program.callbacks.items()} == {"before_ui": 1}
    webui.program.before_ui()
    assert {"cfg_denoiser", "model_loaded", "script_unloaded"} <= webui.program.callbacks.keys()


def test_what_fails_before_the_ui_is_built_stops_nothing_else_and_is_told(webui: WebuiRig) -> None:
    done: list[int] = []
    webui.program.callbacks.clear()
    webui_register.before_ui(lambda: done.append(1), lambda: done.append(1 // 0), lambda: done.append(2))
    with pytest.raises(ZeroDivisionError):
        webui.program.before_ui()
    assert done == [1, 2]


def test_nothing_is_hooked_before_the_first_tag(webui: WebuiRig) -> None:
    modules = webui.program.modules
    forwards = dict(vars(modules["networks"].originals))
    empty = modules["modules.sd_models"].get_empty_cond
    base = webui.picture("")
    assert vars(modules["networks"].originals) == forwards and not modules["modules.patches"].originals
    webui.picture("<lyco:one>")
    assert modules["networks"].originals.Linear_forward is not forwards["Linear_forward"]
    assert modules["modules.sd_models"].get_empty_cond is not empty
    assert same(webui.picture(""), base)


def test_tags_of_the_built_in_loader_are_part_of_the_base(webui: WebuiRig) -> None:
    base, lora, both = webui.picture(""), webui.picture("<lora:x:0.6>"), webui.picture("<lora:x:0.6><lyco:one:0.7>")
    dora = webui.folder / "turning.safetensors"
    write_network(dora, webui.host.base, "dora_out", webui.layers)
    states = {"": base, "<lora:x:0.6>": lora, "<lora:x:0.6><lyco:one:0.7>": both, "<lyco:one:0.7>": webui.picture("<lyco:one:0.7>"),
              "<lora:x:0.6><lyco:turning:0.7>": webui.picture("<lora:x:0.6><lyco:turning:0.7>")}  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        tags = list(states)[int(torch.randint(len(states), (1,), generator=generator))]
        assert same(webui.picture(tags), states[tags])
    assert same(webui.picture("<lyco:one:0.7><lora:x:0.6>"), both)
    assert not same(both, lora) and not same(lora, base)


def test_the_ui_can_be_reloaded(webui: WebuiRig) -> None:
    base, both = webui.picture(""), webui.picture("<lora:x:0.6><lyco:one:0.7>")
    webui.program.reload_ui(webui.read_script)
    assert same(webui.picture("<lyco:one:0.7><lora:x:0.6>"), both) and same(webui.picture(""), base)


def test_a_model_that_comes_in_the_middle_of_a_run_has_the_networks(webui: WebuiRig) -> None:
    base, changed = webui.picture("", refiner=1), webui.picture("<lyco:one:0.7>", refiner=1)
    assert not same(changed[-40:], base[-40:]) and webui.problems == ""
    assert same(webui.picture("<lyco:one:0.7>", refiner=1), changed)
    assert not webui.host.webui.guard.layers
    assert same(webui.picture("", refiner=1), base)


def test_a_run_inside_a_script_has_its_networks_without_our_script(webui: WebuiRig) -> None:
    """Extensions that repaint parts of an image run with few scripts or none."""
    outer = webui.picture("<lyco:one:0.7>")
    assert same(webui.picture("<lyco:one:0.7>", scripts=False), outer)
    assert not same(webui.picture("", scripts=False), outer) and same(webui.picture("<lyco:one:0.7>"), outer)


def test_a_run_without_networks_does_not_lend_its_text_to_one_with(webui: WebuiRig) -> None:
    p = Processing("a cat")
    webui.again("<lyco:one>")
    encoded = webui.program.encoded
    p.disable_extra_networks = True  # type: ignore[attr-defined]
    webui.program.script.before_process(p)
    webui.again("<lyco:one>")
    assert webui.program.encoded == encoded + 1


def test_the_empty_prompt_is_computed_without_networks(webui: WebuiRig) -> None:
    seen = []
    webui.picture("<lyco:one:0.7>")
    activate = webui.program.activate

    def spy(p: Processing, data: Any) -> None:
        activate(p, data)
        seen.append((p.scripts, len(webui.host.webui.guard.layers)))

    webui.program.activate = spy  # type: ignore[method-assign]
    webui.picture("<lyco:one:0.7>", refiner=1)
    assert (None, 0) in seen and (True, 2) in seen


def test_what_the_text_encoder_gave_is_dropped_when_the_same_tags_mean_something_else(webui: WebuiRig) -> None:
    webui.again("<lyco:one>")
    encoded = webui.program.encoded
    webui.again("<lyco:one>")
    assert webui.program.encoded == encoded
    time.sleep(0.01)
    write_network(webui.folder / "one.safetensors", webui.host.base, "lora", webui.layers, seed=77)
    webui.again("<lyco:one>")
    assert webui.program.encoded == encoded + 1


def test_hires_tags_are_known_also_when_they_are_activated_early(webui: WebuiRig) -> None:
    p = Processing("a cat")
    data = {"lyco": [params("one:0.5:hr=0.9")]}
    p.hr_extra_network_data = {"lyco": [params("one:0.5:hr=0.9")]}
    for source, hires in ((data, False), (p.hr_extra_network_data, True), (data, False)):
        webui.network.activate(p, source["lyco"])
        assert webui.host.wanted is not None and webui.host.wanted.hires is hires
    p.is_hr_pass = True
    webui.network.activate(p, data["lyco"])
    assert webui.host.wanted is not None and webui.host.wanted.hires
    webui.network.deactivate(p)


def params(text: str) -> Any:
    return Params(text.split(":"))


def test_a_run_that_activates_nothing_has_no_network_left_from_the_last(webui: WebuiRig) -> None:
    base = webui.picture("")
    p = Processing("a cat")
    webui.network.activate(p, [params("one")])  # and then the run ends with an error
    assert webui.host.webui.guard.layers
    webui.program.script.before_process(p)
    assert not webui.host.webui.guard.layers
    assert same(webui.picture(""), base)


def test_an_error_in_a_layer_is_told_and_the_picture_comes(webui: WebuiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    base = webui.picture("")

    def fails(self: Any, inner: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("mul_cpu_reduced_float not implemented")

    monkeypatch.setattr(layers.PatchedLinear, "prepare_bypass", fails)
    assert same(webui.picture("<lyco:one>"), base)
    assert "could not be changed" in webui.problems and "mul_cpu" in webui.problems


def test_lora_tags_can_be_taken_over(webui: WebuiRig) -> None:
    lyco, base = webui.picture("<lyco:one:0.7>"), webui.picture("")
    opts = webui.program.modules["modules.shared"].opts
    opts.lyco_take_over_lora = True
    webui.program.reload_ui(webui.read_script)
    assert same(webui.picture("<lora:one:0.7>"), lyco) and not webui.program.loras
    webui.picture("<lora:one:foo=1>")
    assert "<lora:one:foo=1>" in webui.problems
    opts.lyco_take_over_lora = False
    webui.picture("<lora:one:0.7>")
    assert webui.program.loras == {"one": 0.7}
    assert same(webui.picture(""), base)


def test_hashes_of_both_loaders_are_in_one_list(webui: WebuiRig) -> None:
    for tags in ("<lora:x:0.6><lyco:one:0.7>", "<lyco:one:0.7><lora:x:0.6>"):
        webui.picture(tags)
        assert webui.program.p is not None
        found = webui.program.p.extra_generation_params
        assert found["Lyco hashes"].startswith("one: ") and len(found["Lyco hashes"]) == len("one: ") + 12
        assert found["Lyco hashes"] in found["Lora hashes"] and "x: 000000000000" in found["Lora hashes"]


def test_a_file_that_went_after_it_was_read_has_its_effect_and_no_hash(webui: WebuiRig, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = webui.picture("<lyco:one:0.7>")

    def gone(path: str, *_: object, **__: object) -> str:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(webui.program.modules["modules.hashes"], "sha256", gone)
    assert same(webui.picture("<lyco:one:0.7>"), wanted)
    assert webui.program.p is not None and "Lyco hashes" not in webui.program.p.extra_generation_params


def test_words_of_a_network_are_there_while_it_is(webui: WebuiRig) -> None:
    table = webui.program.modules["modules.sd_hijack"].model_hijack.embedding_db
    table.word_embeddings["taken"] = mine = object()
    words = {"bundle_emb.glow.string_to_param.*": torch.ones(2, 16), "bundle_emb.taken.string_to_param.*": torch.ones(1, 16),
             "bundle_emb.wide.string_to_param.*": torch.ones(1, 24)}  # fmt: skip
    save(webui.folder / "words.safetensors", words)
    p = Processing("glow")
    webui.network.activate(p, [params("words")])
    assert table.word_embeddings["glow"].vectors == 2 and table.word_embeddings["taken"] is mine
    assert ['"taken"' in text or '"wide"' in text for text in p.comments] == [True, True]
    webui.network.activate(p, [])
    assert set(table.word_embeddings) == {"taken"}


class EmbeddedRig:
    """Our own host with its tiny model."""

    layers = ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k", "transformer.text_model.encoder.layers.0.mlp.fc1")

    def __init__(self, folder: Path) -> None:
        from lib_lycoris.hosts.embedded.host import EmbeddedHost
        from lib_lycoris.hosts.library.library import Library

        self.host, self.folder = EmbeddedHost.tiny(), folder
        self.host.session.library = Library([folder])
        self.problems = ""
        make_networks(folder, self.host, self.layers)

    def picture(self, tags: str) -> Tensor:
        from lib_lycoris.hosts.protocol import GenerationRequest

        made = self.host.generate(GenerationRequest(f"a cat {tags}", seed=1, steps=3, width=64, height=64))
        self.problems = " | ".join(made.problems)
        return torch.from_numpy(np.asarray(made.image, dtype=np.float32).copy())

    def weights(self) -> dict[str, Tensor]:
        parts = self.host.model.parts().items()
        return {f"{part}.{name}": tensor.detach().clone() for part, module in parts for name, tensor in module.state_dict().items()}


@pytest.mark.slow
class TestEmbedded(HostContract):
    @pytest.fixture
    def rig(self, tmp_path: Path) -> EmbeddedRig:
        return EmbeddedRig(tmp_path)


def test_each_batch_of_a_run_says_its_own_networks_only(webui: WebuiRig) -> None:
    texts = webui.program.run_batches(["a cat <lyco:one>"], ["a cat <lyco:two>"], ["a cat"], ["a cat <lora:x:1><lyco:two>"])
    assert [text.get("Lyco hashes", "").split(":")[0] for text in texts] == ["one", "two", "", "two"]
    assert [sorted(name.split(":")[0] for name in text.get("Lora hashes", "").split(", ")) for text in texts] == [
        ["one"], ["two"], [""], ["two", "x"],
    ]  # fmt: skip
    texts = webui.program.run_batches(["a cat <lyco:onee>"], ["a cat <lyco:one>"])
    assert webui.program.p is not None and "Lyco problems" not in webui.program.p.extra_generation_params


def test_images_of_a_batch_that_ask_for_other_networks_are_told_of(webui: WebuiRig) -> None:
    same_tags = webui.program.run_batches(["a cat <lyco:one><lyco:two>", "a dog <lyco:two><lyco:one>"])
    assert webui.program.p is not None and not webui.program.p.comments and "Lyco tags used" not in same_tags[0]
    other_tags = webui.program.run_batches(["a cat <lyco:one>", "a dog <lyco:one>", "a cow", "a hen <lyco:two>"])
    assert "images 3, 4 ask for other networks" in next(iter(webui.program.p.comments))
    assert other_tags[0]["Lyco tags used"] == "<lyco:one>"
    assert webui.program.run_batches(["a cat", "a dog <lyco:one>"])[0]["Lyco tags used"] == "none"


@pytest.mark.parametrize("mode, told", [("Latent", True), ("Attention", False)])
def test_regional_prompters_latent_mode_is_told_that_networks_act_on_the_whole_image(webui: WebuiRig, mode: str, told: bool) -> None:
    p = Processing("a cat")
    p.extra_generation_params.update({"RP Active": True, "RP Calc Mode": mode})  # by its process(), which comes before activations
    webui.network.activate(p, [params("one")])
    assert any("act on the whole image" in text for text in p.comments) is told
    webui.network.deactivate(p)


def test_problems_are_in_the_images_text_only_where_the_settings_ask(webui: WebuiRig) -> None:
    webui.picture("<lyco:onee>")
    assert "onee" in webui.problems and webui.program.p is not None and "Lyco problems" not in webui.program.p.infotext()
    assert "onee" in json.loads(json.dumps(webui.program.p.extra_generation_params))["Lyco problems"]
    webui.program.modules["modules.shared"].opts.lyco_problems_in_infotext = True
    webui.picture("<lyco:onee>")
    assert "onee" in webui.program.p.infotext()["Lyco problems"]


@pytest.mark.parametrize("text", ["<lycoris:one:1>", "<Lyco:one:1>", "<lyco:>", "< lyco:one:1>"])
def test_what_only_looks_like_a_tag_gets_a_sentence(webui: WebuiRig, text: str) -> None:
    base = webui.picture("")
    assert same(webui.picture(text), base) and text in webui.problems
    assert not same(webui.picture(f"{text}<lyco:one>"), base) and text in webui.problems


def test_tags_of_other_programs_are_none_of_our_business(webui: WebuiRig) -> None:
    webui.picture("<lora:x:1> <hypernet:y:1> <wildcard:z> (a:1.2) a <b> c")
    assert webui.problems == ""


def test_a_model_that_is_unloaded_for_a_training_comes_back_with_the_next_image(webui: WebuiRig) -> None:
    """The webui itself would compute with what is left on the CPU."""
    program, models = webui.program, webui.program.modules["modules.sd_models"]
    before = webui.picture("<lyco:one:0.7>")
    assert "the next image loads it again" in files.unload()
    assert program.away == {program.models[0]}
    assert torch.equal(webui.picture("<lyco:one:0.7>"), before) and not program.away
    files.unload()
    models.reload_model_weights(1)  # another checkpoint is chosen meanwhile, which the webui loads by itself
    program.script.before_process(Processing("a cat"))
    assert program.away == {program.models[0]}
    models.send_model_to_device(program.models[0])
    assert torch.equal(webui.picture("<lyco:one:0.7>"), before)


def test_a_program_without_an_adapter_gets_a_sentence() -> None:
    assert "not known" in adapters.unsupported()


def test_a_network_of_another_family_is_put_on_what_fits_where_the_setting_says_so(webui: WebuiRig) -> None:
    opts = webui.program.modules["modules.shared"].opts
    write_network(webui.folder / "foreign.safetensors", webui.host.base, "lora", [UNET])
    tensors = load_file(webui.folder / "foreign.safetensors")
    for number in range(10):  # of Flux.1, at its width
        name = f"lora_unet_double_blocks_{number}_img_attn_proj"
        tensors |= {f"{name}.lora_down.weight": torch.ones(1, 3072), f"{name}.lora_up.weight": torch.ones(3072, 1)}
    save(webui.folder / "foreign.safetensors", tensors)
    base = webui.picture("")
    assert same(webui.picture("<lyco:foreign>"), base)
    assert "foreign.safetensors is for Flux.1" in webui.problems and "but the model is Stable Diffusion 1.x" in webui.problems
    opts.lyco_other_family = True
    assert not same(webui.picture("<lyco:foreign>"), base)
    assert "1 of 11 layers applied" in webui.problems
    opts.lyco_other_family = False
    assert same(webui.picture("<lyco:foreign>"), base) and "is for Flux.1" in webui.problems


def test_a_folder_that_peft_saved_and_a_bin_file_are_networks_of_tags(webui: WebuiRig) -> None:
    (webui.folder / "style").mkdir()
    one = webui.folder / "one.safetensors"
    wanted = webui.picture("<lyco:one:0.7>")
    (webui.folder / "style" / "adapter_model.safetensors").write_bytes(one.read_bytes())
    torch.save(load_file(one), webui.folder / "pickled.bin")
    for name in ("style", "pickled"):
        assert same(webui.picture(f"<lyco:{name}:0.7>"), wanted) and webui.problems == ""
