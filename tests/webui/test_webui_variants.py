"""The webui started in other ways: without its loader, with little memory, in fp8, with SD3; and what we cost where we do nothing."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_lycoris import load
from tests.webui.files import base_of, linear_layers, merge, write_network
from tests.webui.running import HIRES, PROBE, PROMPT, Running, largest, mean
from tests.webui.server import CHECKOUT, WebUI, make_checkpoints
from tests.webui.test_webui_application import random_prompt

pytestmark = [pytest.mark.webui, pytest.mark.only_in("a1111"), pytest.mark.timeout(1800)]
PAIRS = 100


@pytest.fixture(scope="module")
def models(webui_dir: Path, webui_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_checkpoints(webui_dir, Path(webui_python), folder, "sd1", "sd1:2", "sd2", "inpaint", "sdxl", "sd3")
    return folder


class Starter:
    """Starts webuis of one test after the other."""

    def __init__(self, webui_dir: Path, webui_python: str, models: Path, folder: Path) -> None:
        self.webui_dir, self.python, self.models, self.folder = webui_dir, Path(webui_python), models, folder

    @contextmanager
    def __call__(
        self, name: str, *flags: str, checkpoint: str = "sd1-1", checkout: Path | None = CHECKOUT, **options: Any
    ) -> Iterator[Running]:
        webui = WebUI(
            self.webui_dir, self.python, models=self.models, data=self.folder / name, extensions=[PROBE], flags=flags,
            checkpoint=f"{checkpoint}.safetensors", options=options, checkout=checkout,
        )  # fmt: skip
        family = checkpoint.split("-")[0].replace("inpaint", "sd1")
        base = base_of(self.models / "checkpoints" / f"{checkpoint}.safetensors", family)
        layers = linear_layers(base)
        write_network(webui.lyco_dir / "full.safetensors", base, "lora", layers, seed=5, size=0.5)
        write_network(webui.lora_dir / "plain.safetensors", base, "lora", layers, seed=6, size=0.5)
        write_network(webui.lyco_dir / "turned.safetensors", base, "dora_out", layers[::7], seed=7)
        with webui:
            yield Running(webui)


@pytest.fixture
def start(webui_dir: Path, webui_python: str, models: Path, tmp_path: Path) -> Starter:
    return Starter(webui_dir, webui_python, models, tmp_path)


def test_without_the_built_in_loader(start: Starter) -> None:
    with start("alone", disabled_extensions=["Lora"]) as running:
        plain, changed = running.generate(), running.generate("<lyco:full:0.6>")
        assert mean(changed, plain) >= 1 and running.problems == ""
        assert largest(running.generate(), plain) == 0
        running.webui.reload_ui()
        assert largest(running.generate("<lyco:full:0.6>"), changed) == 0 and largest(running.generate(), plain) == 0


@pytest.mark.parametrize("flag", ["--medvram", "--lowvram"])
@pytest.mark.parametrize("checkpoint", ["sd1-1", "sdxl-1"])
def test_with_little_memory(start: Starter, flag: str, checkpoint: str) -> None:
    with start("small", flag, checkpoint=checkpoint) as running:
        plain, theirs = running.generate(), running.generate("<lora:plain:0.6>")
        assert largest(running.generate("<lyco:plain:0.6>"), theirs) <= 1 and mean(theirs, plain) >= 1
        assert largest(running.generate("<lora:plain:0.3><lyco:full:0.6>"), running.generate("<lyco:full:0.6><lora:plain:0.3>")) == 0
        base, second = running.generate(**HIRES), running.generate("<lyco:full:0:hr=0.5>", **HIRES)
        first = running.generate("<lyco:full:0.5:hr=0>", **HIRES)
        assert largest(running.generate("", hr_prompt=f"{PROMPT} <lyco:full:0.5>", **HIRES), second) == 0
        assert largest(running.generate("<lyco:full:0.5>", hr_prompt=PROMPT, **HIRES), first) == 0
        assert min(mean(second, base), mean(first, base)) >= 1
        assert largest(running.generate(), plain) == 0


@pytest.mark.parametrize("cached", [False, True])
def test_with_weights_in_fp8(start: Starter, cached: bool) -> None:
    with start("fp8", fp8_storage="Enable", cache_fp16_weight=cached) as running:
        plain = running.generate()
        for name in ("full", "turned"):
            assert mean(running.generate(f"<lyco:{name}:0.6>"), plain) >= 1
            assert running.problems == ""
        both = running.generate("<lora:plain:0.3><lyco:full:0.6>")
        assert largest(running.generate("<lyco:full:0.6><lora:plain:0.3>"), both) == 0
        assert largest(running.generate(), plain) == 0


def test_sd3(start: Starter) -> None:
    with start("sd3", checkpoint="sd3-1") as running:
        plain, changed = running.generate(), running.generate("<lyco:full:0.6>")
        assert running.info["sd_model_name"] == "sd3-1"
        assert mean(changed, plain) >= 1 and running.problems == ""
        assert largest(running.generate("<lora:plain:0.6><lyco:full:0.6>"), running.generate("<lyco:full:0.6><lora:plain:0.6>")) == 0
        assert largest(running.generate(), plain) == 0


def test_an_inpainting_model_takes_networks_for_the_plain_one(start: Starter, models: Path) -> None:
    """Its first convolution has five channels more."""
    plain_base = base_of(models / "checkpoints" / "sd1-1.safetensors", "sd1")
    with start("inpaint", checkpoint="inpaint-1") as running:
        file = running.webui.lora_dir / "first.safetensors"
        write_network(file, plain_base, "lora", ["diffusion_model.input_blocks.0.0", *linear_layers(plain_base)[::5]])
        plain, theirs = running.generate(), running.generate("<lora:first:0.6>")
        assert running.info["sd_model_name"] == "inpaint-1"
        assert largest(running.generate("<lyco:first:0.6>"), theirs) <= 1 and running.problems == "" and mean(theirs, plain) >= 1
        assert largest(running.generate(), plain) == 0


def test_with_lora_functional(start: Starter) -> None:
    with start("functional", lora_functional=True) as running:
        plain, theirs = running.generate(), running.generate("<lora:plain:0.6>")
        both = running.generate("<lora:plain:0.6><lyco:full:0.6>")
        assert largest(running.generate("<lyco:full:0.6><lora:plain:0.6>"), both) == 0
        assert largest(running.generate("<lora:plain:0.6>"), theirs) == 0 and mean(both, theirs) >= 1
        assert largest(running.generate(), plain) == 0


def test_sdxl_text_encoders_with_their_fused_attention_and_norms(start: Starter, models: Path) -> None:
    checkpoint, merged = models / "checkpoints" / "sdxl-1.safetensors", models / "checkpoints" / "merged-xl.safetensors"
    base = base_of(checkpoint, "sdxl")
    with start("xl", checkpoint="sdxl-1") as running:
        file = running.webui.lyco_dir / "words.safetensors"
        blocks = [name for name in base.layers if name.startswith(("0.", "1.")) and "embedding" not in name and not name.endswith(".attn")]
        tensors: dict[str, torch.Tensor] = {}
        for algorithm in ("lora", "norm"):
            write_network(file, base, algorithm, blocks, size=0.5)
            tensors |= load_file(file)
        save_file(tensors | fused(base), file)
        network = load(file, base)
        assert not network.skipped and any(name.endswith("in_proj_weight[q]") for name in network.patches)
        plain, changed = running.generate(), running.generate("<lyco:words:0.7>")
        assert running.problems == "" and mean(changed, plain) >= 1
        merge(checkpoint, merged, [(network, 0.7)])
        running.webui.call("/sdapi/v1/refresh-checkpoints", {})
        running.webui.options(sd_model_checkpoint=merged.name)
        assert largest(changed, running.generate()) <= 1


def fused(base: Any) -> dict[str, torch.Tensor]:
    """Return LoRAs for q, k and v of an attention that has them in one weight, as kohya's trainer names them."""
    generator, found = torch.Generator().manual_seed(3), {}
    for letter in "qkv":
        name = f"lora_te2_text_model_encoder_layers_3_self_attn_{letter}_proj"
        width = base.layers["1.model.transformer.resblocks.3.attn"].shape[1]
        found[f"{name}.lora_up.weight"] = torch.randn(width, 3, generator=generator) * 0.2
        found[f"{name}.lora_down.weight"] = torch.randn(3, width, generator=generator) * 0.2
    return found


def test_words_of_a_network_work_in_the_prompt_while_it_is_there(start: Starter) -> None:
    with start("words") as running:
        vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(4))
        network = load_file(running.webui.lyco_dir / "full.safetensors")
        save_file({**network, "bundle_emb.glowstone.string_to_param.*": vectors}, running.webui.lyco_dir / "words.safetensors")
        prompt = "a glowstone house"
        plain, without = running.generate(prompt=prompt), running.generate("<lyco:full:0.5>", prompt=prompt)
        with_word = running.generate("<lyco:words:0.5>", prompt=prompt)
        assert mean(with_word, without) >= 1 and running.problems == ""
        assert largest(running.generate("<lyco:full:0.5>", prompt=prompt), without) == 0
        assert largest(running.generate(prompt=prompt), plain) == 0


def test_lora_tags_can_be_taken_over(start: Starter) -> None:
    with start("taken") as running:
        plain, theirs, ours = running.generate(), running.generate("<lora:plain:0.6>"), running.generate("<lyco:plain:0.6>")
        running.webui.options(lyco_take_over_lora=True)
        assert largest(running.generate("<lora:plain:0.6>"), ours) == 0
        assert running.info["extra_generation_params"]["Lyco hashes"].startswith("plain: ")
        assert largest(running.generate("<lora:plain:foo=1>"), plain) == 0 and "<lora:plain:foo=1>" in running.problems
        running.webui.options(lyco_take_over_lora=False)
        assert largest(running.generate("<lora:plain:0.6>"), theirs) == 0 and "Lyco hashes" not in running.info["extra_generation_params"]
        assert largest(running.generate(), plain) == 0


@pytest.mark.long
def test_what_we_cost_where_we_do_nothing(start: Starter) -> None:
    """After a first tag, runs without tags take as long as in a webui without us: the difference lies within that of two such webuis."""
    with start("with") as ours, start("without", checkout=None) as one, start("without-too", checkout=None) as other:
        for running in (ours, one, other):
            running.generate("<lyco:full:0.5>" if running is ours else "")
        pictures = [running.generate() for running in (ours, one, other)]
        assert largest(pictures[0], pictures[1]) == 0 and largest(pictures[1], pictures[2]) == 0
        times: dict[Running, list[float]] = {ours: [], one: [], other: []}
        for _ in range(PAIRS):
            for running in random.sample([ours, one, other], 3):
                began = time.perf_counter()
                running.generate(steps=2)
                times[running].append(time.perf_counter() - began)
        rounds = list(zip(times[ours], times[one], times[other]))
        apart = statistics.quantiles([b - a for _, a, b in rounds], n=4)
        cost = statistics.median([a - b for a, b, _ in rounds])
        fastest = [f"{min(found) * 1000:.0f}" for found in times.values()]
        print(f"ms more than without us: {cost * 1000:.1f}; quartiles of two without us: {[round(x * 1000, 1) for x in apart]}; {fastest}")
        assert apart[0] <= cost <= apart[2]


@pytest.mark.long
def test_memory(start: Starter) -> None:
    """After the 200 random runs of the application's test the server holds at most 50 MB more than without us."""

    def held(name: str, checkout: Path | None) -> float:
        with start(name, checkout=checkout) as running:
            for seed in range(200):
                tags, fields = random_prompt(seed)
                running.generate(tags if checkout else tags.replace("<lyco:", "<lyco-absent:"), **fields)
            running.generate()
            return running.memory()

    with ThreadPoolExecutor(2) as both:  # side by side, so that both meet the same machine
        ours, theirs = both.map(held, ("with", "without"), (CHECKOUT, None))
    print(f"memory: {ours:.0f} MB with us, {theirs:.0f} MB without")
    assert ours - theirs <= 50
